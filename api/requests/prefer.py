"""What a caller prefers (RFC 7240); the only preference that is known here is `wait=N`."""

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

_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:[,;]|$)', re.IGNORECASE)


def wait_s(prefer: str | None, wait_s_max: float) -> float | None:
    """Read `wait=N` out of a Prefer header, bounded; an unknown preference is ignored."""
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), wait_s_max) if found else None
