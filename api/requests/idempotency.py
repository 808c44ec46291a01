"""The Idempotency-Key of a request: under one key, a member's request is done once.

The key is claimed in the transaction that does the work, so a key is remembered if, and only if, its work
is done. A refusal rolls both back: repeated, it is decided again.
"""

import re
from hashlib import sha256
from typing import Annotated

from litestar.params import HeaderParameter
from sqlalchemy import Connection

from api.problems import Invalid, refused
from domain.idempotency import Claimed, IdempotencyKeys, InFlight, KeyedRequest, Mismatch, Repeat

HEADER = "Idempotency-Key"
KEY_LENGTH_MAX = 255
# The header that says so where an earlier request is answered again.
REPEATED = {"Idempotency-Replayed": "true"}

Key = Annotated[
    str | None,
    HeaderParameter(
        name=HEADER,
        description=(
            "Repeats under one key, with the same request, are done once. A string of RFC 8941, at most "
            f"{KEY_LENGTH_MAX} characters long; without its quotes it is the same key."
        ),
        min_length=1,
    ),
]

# A string of RFC 8941, section 3.3.3: printable ASCII, and nothing but quotes and backslashes escaped.
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')


def keyed_request(caller_id: int, header: str | None, content: bytes) -> KeyedRequest:
    """Return the request with its key as it was sent; raises `Invalid`."""
    key = None if header is None else bare(header)
    return KeyedRequest(caller_id, key, sha256(content).digest())


def bare(header: str) -> str:
    """Return the key without quotes: `"abc"` and `abc` are the same; raises `Invalid`."""
    key = header
    if header.startswith('"'):
        quoted = _STRING.fullmatch(header)
        if quoted is None:
            raise Invalid("it begins like a string of RFC 8941 but is not one", header=HEADER)
        key = _ESCAPED.sub(r"\1", quoted[1])
    if not 0 < len(key) <= KEY_LENGTH_MAX:
        raise Invalid(f"a key has between 1 and {KEY_LENGTH_MAX} characters", header=HEADER)
    return key


def is_repeat(
    connection: Connection, keys: IdempotencyKeys, request: KeyedRequest, **more: object
) -> bool:
    """Tell whether the request was done before, or claim its key for this transaction.

    Raises `ProblemError` if the key was used for another request, or its first request is still running.
    """
    if request.key is None:
        return False
    match keys.claim(connection, request, **more):
        case Claimed():
            return False
        case Repeat():
            return True
        case (Mismatch() | InFlight()) as refusal:
            raise refused(refusal)
