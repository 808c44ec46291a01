"""`innbox` commands, run to their end as a person would."""

import os
import subprocess
import sys
from pathlib import Path


def innbox(
    *arguments: str, data: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would, with nothing but these variables and the path."""
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", "--data", str(data), *arguments],
        env={"PATH": os.environ["PATH"], "COLUMNS": "200", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
