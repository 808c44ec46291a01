"""What Alembic's autogenerate is to make of the outbox: nothing, or a comparison with this library.

A project that lets `include_schemas` look into every schema gives `include_name=without_outbox` to
`context.configure`, or autogenerate proposes to drop tables that it finds in no model of the project's.
One that wants `alembic check` to hold the outbox against this library calls `know_types`, adds
`outbox.metadata` to its target metadata, and gives `include_name=without_partitions`.
"""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy.dialects.postgresql.base import ischema_names

from outbox.tables import SCHEMA, PgSnapshot, Xid8


def without_outbox(name: str | None, kind: str, parents: Mapping[Any, str | None]) -> bool:
    """Return False for the schema `outbox` and all in it: an `include_name` for `context.configure`."""
    schema = name if kind == "schema" else parents.get("schema_name")
    return schema != SCHEMA


def without_partitions(name: str | None, kind: str, parents: Mapping[Any, str | None]) -> bool:
    """Return False for the partitions of `outbox.message`, which come and go: also an `include_name`."""
    is_table = kind == "table" and parents.get("schema_name") == SCHEMA
    return not (is_table and name and re.fullmatch(r"message_(default|\d{8})", name))


def know_types() -> None:
    """Have SQLAlchemy know the types `xid8` and `pg_snapshot` when it reads a schema back. Repeatable."""
    ischema_names.update(xid8=Xid8, pg_snapshot=PgSnapshot)
