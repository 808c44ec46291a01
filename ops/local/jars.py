"""Kafka's jars: fetched once per user, verified by checksums, shared by all data directories.

jars.lock names every file, its size and its SHA-256, so only the pinned files run, whichever mirror
they came from. A jar appears in the cache only complete and verified; a damaged one is fetched again.
Of several processes one fetches, and the others wait.

    INNBOX_CACHE              a directory for the cache, instead of the user's cache directory
    INNBOX_MAVEN_REPOSITORY   a mirror, instead of the public Maven repository
"""

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from ops.errors import LocalError
from ops.local.state import Report, exclusive

LOCK = Path(__file__).with_name("jars.lock")
FETCHES_AT_ONCE = 6
REPORTED_EVERY = 5
NETWORK_TIMEOUT_S = 30
MEGABYTE = 1_000_000


class Jar(msgspec.Struct, frozen=True, array_like=True):
    """A line of jars.lock."""

    group: str
    artifact: str
    version: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def is_intact(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return False
        return found == self.sha256


def pinned() -> list[Jar]:
    lines = LOCK.read_text().replace(":", " ").splitlines()
    return [msgspec.convert(line.split(), Jar, strict=False) for line in lines]


def kafka_version() -> str:
    return next(jar.version for jar in pinned() if jar.artifact == "kafka_2.13")


def cache() -> Path:
    if chosen := os.environ.get("INNBOX_CACHE"):
        return Path(chosen).resolve()
    return platformdirs.user_cache_path("innbox")


def class_path(report: Report) -> str:
    """Return Kafka's class path, after fetching missing or damaged jars."""
    if _broken():
        with exclusive(cache() / "fetch.lock", report):
            if broken := _broken():  # the lock's last holder may have fetched them
                _fetch(broken, report)
    return os.pathsep.join(str(folder() / jar.name) for jar in pinned())


def folder() -> Path:
    """Return the directory of the pinned version's jars and of the archives made from them."""
    return cache() / f"kafka-{kafka_version()}"


def _broken() -> list[Jar]:
    return [jar for jar in pinned() if not jar.is_intact(folder() / jar.name)]


def _fetch(jars: list[Jar], report: Report) -> None:
    scratch = cache() / "fetching"
    shutil.rmtree(scratch, ignore_errors=True)
    folder().mkdir(exist_ok=True)
    for archive in folder().glob("*.aot"):  # made from jars that are about to be replaced
        archive.unlink()
    total_mb = sum(jar.size for jar in jars) / MEGABYTE
    report(f"Fetching Kafka {kafka_version()}, once: {len(jars)} jars, {total_mb:.0f} MB.")
    done_mb = 0.0
    maven = _maven(scratch)
    pool = ThreadPoolExecutor(FETCHES_AT_ONCE)
    try:
        fetches = [pool.submit(_fetch_one, jar, maven) for jar in jars]
        for count, fetch in enumerate(as_completed(fetches), start=1):
            done_mb += fetch.result().size / MEGABYTE
            if count % REPORTED_EVERY == 0:
                report(f"Fetched {count} of {len(jars)} jars, {done_mb:.0f} of {total_mb:.0f} MB.")
    finally:
        # On a failure, or on Ctrl-C, end after the jars in progress.
        pool.shutdown(cancel_futures=True)
    shutil.rmtree(scratch, ignore_errors=True)


def _fetch_one(jar: Jar, maven: Any) -> Jar:  # noqa: ANN401 - jgo ships no types
    try:
        component = maven.project(jar.group, jar.artifact).at_version(jar.version)
        arrived = component.artifact().resolve()
    except (OSError, RuntimeError) as error:
        raise LocalError(_unreachable(jar, maven, str(error))) from error
    if not jar.is_intact(arrived):
        raise LocalError(_unreachable(jar, maven, "the file's checksum differs from jars.lock"))
    arrived.replace(folder() / jar.name)
    return jar


def _maven(scratch: Path) -> Any:  # noqa: ANN401
    mirror = os.environ.get("INNBOX_MAVEN_REPOSITORY")
    remotes = {"mirror": mirror.rstrip("/")} if mirror else None
    from jgo.maven import MavenContext  # noqa: PLC0415 - slow to import, and needed once per machine

    return MavenContext(repo_cache=scratch, remote_repos=remotes, timeout=NETWORK_TIMEOUT_S)


def _unreachable(jar: Jar, maven: Any, reason: str) -> str:  # noqa: ANN401
    (repository,) = maven.remote_repos.values()
    return (
        f"{jar.name} could not be fetched from {repository}: {reason}\n"
        "Jars that were fetched are kept. Run the command again, or do one of these:\n"
        "  set INNBOX_MAVEN_REPOSITORY to a reachable Maven mirror,\n"
        f"  set INNBOX_CACHE to a copy of {cache()} from a machine that has one,\n"
        "  set KAFKA_BOOTSTRAP_SERVERS to your own brokers."
    )
