"""Ports for processes of ours on this machine."""

import errno
import random
import socket
from itertools import islice

# Below the ranges from which systems draw ports for outgoing connections (Linux 32768, macOS 49152), or
# one might be gone before its process listens, or when a stopped server comes back.
PORTS = range(20_000, 32_000)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return so many distinct ports that were free a moment ago."""
    # Random, so that those who look at the same time rarely find the same.
    candidates = random.sample(PORTS, k=len(PORTS))
    free = list(islice((port for port in candidates if is_free(port, host)), count))
    if len(free) < count:
        raise OSError(errno.EADDRINUSE, f"fewer than {count} ports are free on {host}")
    return free


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody could listen there now; raises `OSError` if nobody ever could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the servers do: a connection that lingers from a previous run does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True
