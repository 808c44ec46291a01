"""Free ports for processes on this machine, each given to one process at a time.

A server listens some seconds after its port was chosen, and not while it is restarted. So a port stays
claimed until the process that chose it ends: by a lock on one byte of a file that all processes of a user
share.
"""

import errno
import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from itertools import islice
from pathlib import Path

# Below the ranges of outgoing connections (Linux from 32768, macOS from 49152): one of those could take a
# port before its process listens, or while its server is restarted.
PORTS = range(20_000, 32_000)

_claimed: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Claim a port on which a process could listen now."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Claim distinct ports on which processes could listen now."""
    candidates = random.sample(PORTS, k=len(PORTS))
    new = (port for port in candidates if port not in _claimed and claim(port, host))
    ports = list(islice(new, count))
    if len(ports) < count:
        raise OSError(errno.EADDRINUSE, f"fewer than {count} ports are free on {host}")
    return ports


def claim(port: int, host: str = "127.0.0.1") -> bool:
    """Keep a port for this process; False if another process listens there or has claimed it."""
    if port not in _claimed:
        try:
            # The system ends the lock with the process, and drops it if the file is ever closed here.
            fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except BlockingIOError:
            return False
        _claimed.add(port)
    return is_free(port, host)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a process could listen there now; raises `OSError` if the host is not local."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the servers do: a connection in TIME_WAIT from a previous run does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


@cache
def _locks() -> int:
    path = Path(tempfile.gettempdir()) / f"innbox-ports-{os.getuid()}.lock"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
