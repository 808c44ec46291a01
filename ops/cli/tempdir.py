"""A directory for servers of a command's own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.cli.output import print_status


@contextmanager
def temporary(prefix: str) -> Iterator[Path]:
    """A directory for the length of a block; kept, with the logs in it, if the block fails."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    except Exception:
        print_status(f"The logs are kept in {directory}.")
        raise
    except BaseException:  # interrupted: nobody will look
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
