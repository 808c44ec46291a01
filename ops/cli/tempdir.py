"""A directory for servers of a command's own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.cli.output import say


@contextmanager
def temporary(prefix: str) -> Iterator[Path]:
    """A directory for the length of a block; kept, with the logs in it, if the block fails."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    except Exception:
        say(f"The logs are kept in {directory}.")
        raise
    except BaseException:  # interrupted: nobody will look
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
