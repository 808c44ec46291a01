"""Random ids, without asking the system for each.

`os.urandom`, which `uuid4` and `secrets` ask, lets go of the interpreter's lock; in a process of many
threads each id then waits for its turn. These ids must be unique, not secret: a generator that was seeded
by the system, and is again after a fork, draws them as well.
"""

from random import getrandbits
from uuid import UUID


def new_uuid() -> UUID:
    """Return a UUID of version 4."""
    return UUID(int=getrandbits(128), version=4)


def hex_digits(count: int) -> str:
    """Return so many random digits; not zeros alone, which W3C's ids may not be."""
    return f"{getrandbits(4 * count) or 1:0{count}x}"
