"""Open files: how many a process may have, each connection among them."""

import resource
from contextlib import suppress


def raise_open_files() -> int:
    """Raise the soft limit of open files, often 1024, to the hard one; returns what is in force."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower one that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
