"""The files of a broker's logs, cut as a crash of its machine cuts them: the last batches are gone."""

from collections.abc import Iterator
from pathlib import Path

_HEADER = 61  # bytes of a batch before its records
_LENGTH_FROM = 12  # a batch's length counts from here on


def cut_half(data: Path, topic: str, ends: dict[int, int], *, node: int = 1) -> None:
    """Take from each partition of a dead broker's topic the later half of what is behind these offsets.

    Its indexes go, too: the broker makes them anew when it recovers the log.
    """
    for partition, end in ends.items():
        folder = data / f"kafka-{node}" / "records" / f"{topic}-{partition}"
        (log,) = folder.glob("*.log")
        content = log.read_bytes()
        behind = [at for at, base in _batches(content) if base >= end]
        if behind:
            log.write_bytes(content[: behind[len(behind) // 2]])
        for index in (*folder.glob("*.index"), *folder.glob("*.timeindex")):
            index.unlink()


def _batches(content: bytes) -> Iterator[tuple[int, int]]:
    """Where each batch begins in the file, and its first offset."""
    at = 0
    while at + _HEADER <= len(content):
        base, length = content[at : at + 8], content[at + 8 : at + _LENGTH_FROM]
        if not any(length):
            return  # space that was set aside
        yield at, int.from_bytes(base)
        at += _LENGTH_FROM + int.from_bytes(length)
