"""Random ids, and traces as W3C writes them in a `traceparent`: version, trace id, parent id, flags.

`os.urandom`, which `uuid4` and `secrets` ask for each id, lets go of the interpreter's lock; in a process
of many threads each id then waits for its turn. These ids must be unique, not secret: a generator that
was seeded by the system, and is again after a fork, draws them as well.
"""

import re
from random import getrandbits
from uuid import UUID

# Version 00, the only one there is; ids of zeros alone are invalid.
_VALID = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def new_uuid() -> UUID:
    return UUID(int=getrandbits(128), version=4)


def begun() -> str:
    """Begin a trace that nobody handed to us."""
    return f"00-{getrandbits(128) or 1:032x}-{getrandbits(64) or 1:016x}-01"


def valid(given: str | None) -> str | None:
    """Return what was given if it is a traceparent: all else would be passed on without bounds."""
    return given if given and _VALID.fullmatch(given) else None


def trace_id(traceparent: str) -> str:
    return traceparent.split("-")[1]
