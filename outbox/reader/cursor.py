"""The cursor: what of a range of keys is published. `outbox.reader.difference` says how it moves."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cursor:
    """What has been published: all that `snapshot` shows and, in a backlog, more.

    While a backlog is published in parts, also what `batch_snapshot` shows up to `position`. `floor` and
    `next_xid` tell where what comes after the difference begins; those of zero are true of any log. The
    number grows with every batch.
    """

    snapshot: str
    batch_snapshot: str | None = None
    position: int | None = None
    floor: int = 0
    next_xid: str = "0"
    number: int = 0
    # By the reading process' clock; nothing rests on it but speed.
    read_at: float = field(default=0.0, compare=False)

    @property
    def ends_at(self) -> str:
        """The snapshot that the current difference ends at."""
        return self.batch_snapshot or self.snapshot


@dataclass(frozen=True, slots=True)
class HashRange:
    """The half-open range of key hashes that a shard is."""

    hash_from: int
    hash_to: int


ALL_KEYS = HashRange(-(2**31), 2**31)
