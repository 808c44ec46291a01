"""The snapshot database: what databases and topics say, side by side in one scratch SQLite file.

A question that spans several databases and Kafka becomes one query. Rows stream into the file and memory
stays bounded, however much there is; nothing of the running system is locked or written. Instants are
seconds since 1970.

What makes reading a running system safe is the order: each database as of one instant (`snapshots`),
then the topics up to the ends they have by then (`topics`), then what was committed meanwhile. Whatever
a database showed as relayed was acknowledged before, and so is in the topics.

The scratch file is filled, asked, and gone with its block, or with its process.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Self

ROWS_PER_INSERT = 5_000
CACHE_KIB = 65_536

# How far the clocks of writers, databases and brokers may differ where only a clock can tell
# whether a row is missing or was dropped by retention; also longer than any transaction may take.
CLOCKS_DIFFER_S = 3_600


class SnapshotDatabase:
    """A scratch file with these tables. Fill it with `insert`, then ask."""

    def __init__(self, schema: str) -> None:
        # Without a name it is a file that has no name either: whatever ends us, it is gone.
        self._sqlite = sqlite3.connect("", isolation_level=None)
        # Hence nothing of it must survive a crash.
        self._sqlite.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB}"
        )
        self._sqlite.executescript(schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sqlite.close()

    def insert(self, table: str, rows: Iterable[Sequence[object]]) -> int:
        """Write whole rows, in the order of the table's columns; returns how many."""
        stream, count = iter(rows), 0
        while chunk := list(islice(stream, ROWS_PER_INSERT)):
            places = ", ".join("?" * len(chunk[0]))
            self._sqlite.execute("BEGIN")
            self._sqlite.executemany(f"INSERT INTO {table} VALUES ({places})", chunk)
            self._sqlite.execute("COMMIT")
            count += len(chunk)
        return count

    def run(self, *scripts: str) -> None:
        for script in scripts:
            self._sqlite.executescript(script)

    def create_function(self, name: str, arguments: int, function: Callable[..., int]) -> None:
        """Let queries call a function, whose answer depends on its arguments alone."""
        self._sqlite.create_function(name, arguments, function, deterministic=True)

    def number(self, query: str) -> int:
        return int(self._sqlite.execute(query).fetchone()[0])

    def column(self, query: str) -> Iterator[Any]:
        """The first column of every row, one at a time."""
        return (row[0] for row in self._sqlite.execute(query))

    def rows(
        self, query: str, values: Mapping[str, object] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Every row, one at a time."""
        return self._sqlite.execute(query, values or {})

    def dict_rows(self, query: str, values: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        """Every row by the names of its columns, one at a time."""
        found = self._sqlite.execute(query, values)
        names = [column[0] for column in found.description]
        return (dict(zip(names, row, strict=True)) for row in found)


def seconds(instant: str | None) -> float | None:
    """Read an ISO 8601 instant, UTC unless it says otherwise; None for whatever is not one."""
    try:
        read = datetime.fromisoformat(instant) if instant else None
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() if read else None
    except (ValueError, OverflowError):  # the year 1, in a zone east of here
        return None
