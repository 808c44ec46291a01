"""A temporary directory for the servers of one command."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from relay.cli.output import print_status


@contextmanager
def temporary(prefix: str) -> Iterator[Path]:
    """Make a directory for the length of a block; it is kept, with its logs, if the block fails."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    with ExitStack() as removed:
        removed.callback(shutil.rmtree, directory, ignore_errors=True)
        try:
            yield directory
        except Exception:  # if it is interrupted, the logs are of no use
            removed.pop_all()
            print_status(f"The logs are kept in {directory}.")
            raise
