"""The scopes of a token, each with what it allows."""

from typing import Final

READ = "read"
WRITE = "write"
STAFF = "staff"
INVENTORY = "inventory"
OPERATE = "operate"

SCOPES: Final = {
    READ: "look at reservations",
    WRITE: "reserve and cancel",
    STAFF: "act for any member and see all of them; in addition to `read` and `write`",
    INVENTORY: "change rooms and nights",
    OPERATE: "look at what is open",
}
