"""Who is at the terminal, for the record."""

import getpass
import os
import socket


def person() -> str:
    """Return the user of the operating system and the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as somebody without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
