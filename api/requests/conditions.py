"""How a caller wants to be answered: which versions they know or mean (RFC 9110), and whether to wait.

A reservation's entity tag is its version, so it changes just when the reservation does. The only
preference (RFC 7240) that is known here is `wait=N`.
"""

import re
from typing import Annotated

from litestar.params import HeaderParameter

Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer",
        description="`wait=N`: answer when the rooms have, or after N seconds (RFC 7240).",
    ),
]

_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*')
_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:[,;]|$)', re.IGNORECASE)


def wait_s(prefer: str | None, wait_s_max: float) -> float | None:
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), wait_s_max) if found else None


def etag(version: int) -> str:
    return f'"{version}"'


def is_known(if_none_match: str | None, version: int) -> bool:
    """Tell whether the caller has this version already: RFC 9110's weak comparison."""
    return _names(if_none_match, version, weak=True)


def is_meant(if_match: str | None, version: int) -> bool:
    """Tell whether a change is meant for this version: RFC 9110's strong comparison."""
    return if_match is None or _names(if_match, version, weak=False)


def _names(header: str | None, version: int, *, weak: bool) -> bool:
    if header is None:
        return False
    if header.strip() == "*":
        return True
    tags = map(_TAG.fullmatch, header.split(","))
    return any(tag and tag[2] == str(version) and (weak or not tag[1]) for tag in tags)
