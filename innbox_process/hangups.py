"""Hang-ups: a reader of the output that goes away is no error of the program.

A write to its pipe fails, and Python would say so once more when it ends, with an exit code of 120.
"""

import os
import sys
from typing import TextIO


def mute(stream: TextIO) -> None:
    """Send what is left in the stream, and whatever follows, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def mute_unread() -> bool:
    """Mute the standard streams that nobody reads any more; returns whether there was one."""
    has_hung_up = False
    # One that was closed when the program was started is None.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            mute(stream)
            has_hung_up = True
    return has_hung_up
