"""Traces, as W3C writes them in a `traceparent`: version, trace id, parent id, flags."""

import re

from runtime.ids import hex_digits

# Version 00, the only one there is; ids of zeros alone are invalid.
_VALID = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def begun() -> str:
    """Begin a trace that nobody handed to us."""
    return f"00-{hex_digits(32)}-{hex_digits(16)}-01"


def valid(given: str | None) -> str | None:
    """Return what was given if it is a traceparent: all else would be passed on without bounds."""
    return given if given and _VALID.fullmatch(given) else None


def trace_id(traceparent: str) -> str:
    return traceparent.split("-")[1]
