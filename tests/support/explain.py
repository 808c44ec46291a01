"""A log that fills at once, and how Postgres reads it: plans of statements the driver has prepared."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, text

FILL = text("""
    INSERT INTO outbox.message (message_id, topic, key, value, headers, created_at)
    SELECT gen_random_uuid(), 'room-reserve', 'key-' || number % 100, 'value', '{}', :created_at
    FROM generate_series(1, :rows) AS number
""")
PREPARED = text("""
    SELECT name FROM pg_prepared_statements
    WHERE from_sql IS FALSE AND strpos(statement, :fragment) > 0 AND generic_plans > 0
    ORDER BY prepare_time DESC LIMIT 1
""")


def executed_plan(
    connection: Connection, fragment: str, values: Sequence[object]
) -> dict[str, Any]:
    """Run the very statement that the driver has prepared, and explain it; its plan is generic."""
    name = connection.execute(PREPARED, {"fragment": fragment}).scalar_one()
    arguments = ", ".join(f"'{value}'" for value in values)
    explain = f'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE "{name}" ({arguments})'
    (explained,) = connection.exec_driver_sql(explain).scalar_one()
    plan: dict[str, Any] = explained["Plan"]
    return plan


def indexes(plan: dict[str, Any]) -> set[str]:
    """The indexes of the log that are used: `message_20260101_xid_idx` is `xid`, and so on."""
    names = [node["Index Name"] for node in nodes(plan) if "Index Name" in node]
    return {name.removesuffix("_idx").rpartition("_")[2] for name in names}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def is_of_log(node: dict[str, Any]) -> bool:
    names = f"{node.get('Relation Name', '')} {node.get('Index Name', '')}"
    return "message_" in names and "message_position_seq" not in names
