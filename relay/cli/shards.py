"""`shards` and `partitions`: how things stand."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click
from sqlalchemy import Connection

from outbox import admin, reader
from outbox.reader import Shard
from relay.cli.deployment import Where, on_database
from relay.cli.output import as_json, print_found


@click.command()
@as_json
@on_database
def shards(where: Where, *, as_json: bool) -> None:
    """List the shards: their keys, relays and cursors, and what waits (an estimate)."""
    found = [{"database": of, **shard} for of, shard in where.of_each(_shards)]
    columns = ("database", "shard", "key hashes", "owner", "leased until", "epoch", "backlog")
    print_found(
        {"shards": found},
        "Shards",
        (*columns, "reserved for", "cursor"),
        map(_row, found),
        as_json=as_json,
    )


@click.command()
@as_json
@on_database
def partitions(where: Where, *, as_json: bool) -> None:
    """List the daily partitions, oldest first."""
    found = {
        of: {day.isoformat(): name for day, name in days.items()}
        for of, days in where.of_each(lambda connection: [admin.partitions(connection)])
    }
    rows = [(database, day, name) for database, days in found.items() for day, name in days.items()]
    columns = ("database", "day (UTC)", "table")
    print_found({"partitions": found}, "Partitions", columns, rows, as_json=as_json)


def _shards(connection: Connection) -> Iterator[dict[str, Any]]:
    waiting = admin.backlogs(connection)
    for shard in reader.shards(connection):
        yield {**shown(shard), "backlog": waiting.get(shard.id, 0)}


def _row(shard: dict[str, Any]) -> Sequence[Any]:
    return (
        shard["database"],
        shard["id"],
        f"{shard['hashes']['hash_from']} to {shard['hashes']['hash_to'] - 1}",
        shard["owner"] or "nobody",
        shard["leased_until"],
        shard["epoch"],
        f"{shard['backlog']:,}",
        shard["reserved_for"],
        # Without the transactions in flight, of which there may be a thousand.
        ":".join(shard["cursor"]["snapshot"].split(":")[:2]),
    )


def shown(shard: Shard) -> dict[str, Any]:
    """A shard for programs: what its row says, without what only a relay's memory knows."""
    fields = asdict(shard)
    del fields["saved"], fields["cursor"]["read_at"]
    return fields
