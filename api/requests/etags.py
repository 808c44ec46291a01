"""Entity tags: a reservation's is its version, so it changes just when the reservation does."""

import re

_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*')


def etag(version: int) -> str:
    return f'"{version}"'


def is_known(if_none_match: str | None, version: int) -> bool:
    """Tell whether the caller has this version already: RFC 9110's weak comparison."""
    return _names(if_none_match, version, weak=True)


def is_meant(if_match: str | None, version: int) -> bool:
    """Tell whether a change is meant for this version: RFC 9110's strong comparison."""
    return if_match is None or _names(if_match, version, weak=False)


def _names(header: str | None, version: int, *, weak: bool) -> bool:
    """Look for the version among the tags; what is no tag names nothing."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    tags = map(_TAG.fullmatch, header.split(","))
    return any(tag and tag[2] == str(version) and (weak or not tag[1]) for tag in tags)
