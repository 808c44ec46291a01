"""The names by which owners of shards are known, to each other and to a person: `host:pid:…`."""

import socket
from os import getpid
from uuid import uuid4


def a_new_name(purpose: str = "") -> str:
    """Return a name that nobody has, even where every container has the same host and pid."""
    return f"{socket.gethostname()}:{getpid()}:{purpose}{uuid4().hex[:8]}"
