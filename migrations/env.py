"""Alembic's entry, for `alembic upgrade head`, `innbox migrate` and the tests.

The database is DATABASE_URL, unless the caller sets `url` in the configuration's attributes.
Waiting for a lock is bounded: a migration that cannot get its lock fails and can be run again, while
one that waits would block every query behind it.
"""

import os
from collections.abc import Mapping
from typing import Any

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import consumers.tables
import domain.reservations.tables
import domain.rooms.tables
import outbox.schema

METADATA = [
    outbox.metadata,
    domain.reservations.tables.metadata,
    domain.rooms.tables.metadata,
    consumers.tables.metadata,
]
SCHEMAS = {metadata.schema for metadata in METADATA}
LOCK_TIMEOUT = "5s"

outbox.schema.know_types()


def include_name(name: str | None, kind: str, parents: Mapping[Any, str | None]) -> bool:
    """Compare innbox's schemas only, without the daily partitions."""
    if kind == "schema":
        return name in SCHEMAS
    return outbox.schema.without_partitions(name, kind, parents)


def url() -> str:
    given: str | None = context.config.attributes.get("url") or os.environ.get("DATABASE_URL")
    if not given:
        raise SystemExit(
            "set DATABASE_URL, for example postgresql+psycopg://user:password@host/name"
        )
    return given


def configure(**options: Any) -> None:  # noqa: ANN401 - alembic's options
    context.configure(
        target_metadata=METADATA,
        include_schemas=True,
        include_name=include_name,
        compare_server_default=False,
        transaction_per_migration=True,
        **options,
    )


if context.is_offline_mode():
    configure(url=url(), literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        context.run_migrations()
else:
    with create_engine(url(), poolclass=NullPool).connect() as connection:
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.commit()
        configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
