"""Free ports for processes on this machine."""

import errno
import random
import socket
from itertools import islice

# Below the ranges of outgoing connections (Linux from 32768, macOS from 49152): one of those could take a
# port before its process listens, or while its server is restarted.
PORTS = range(20_000, 32_000)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return distinct ports that were free a moment ago."""
    # Random, so that two processes that search at once rarely find the same ports.
    candidates = random.sample(PORTS, k=len(PORTS))
    free = list(islice((port for port in candidates if is_free(port, host)), count))
    if len(free) < count:
        raise OSError(errno.EADDRINUSE, f"fewer than {count} ports are free on {host}")
    return free


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
