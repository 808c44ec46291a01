"""A project of somebody's, as files: a shop whose packages have the names that innbox's have."""

from textwrap import dedent

NAMES = ("api", "client", "consumers", "domain", "migrations", "ops", "runtime", "tests")

_SHOP = '''
"""Take orders, and read what is to be published."""

import json
import os
from pathlib import Path

import api
import client
import consumers
import domain
import migrations
import ops
import runtime
import tests
from domain import place
from sqlalchemy import create_engine

import outbox
from outbox import admin, reader

PACKAGES = (api, client, consumers, domain, migrations, ops, runtime, tests)


def main() -> None:
    engine = create_engine(os.environ["DATABASE_URL"])
    with engine.begin() as connection:
        outbox.declare_topics(connection, {"orders": 10_000})
    with engine.begin() as connection:
        for item in ("tea", "coffee"):
            place(connection, item)
    own = {each.__name__: str(Path(str(each.__file__)).parent) for each in PACKAGES}
    told: dict[str, object] = {"own": own}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        told["waiting"] = admin.count_backlog(connection)
        reader.prepare_session(connection)
        shard = reader.claim(connection, "the shop", lease_s=30)
        assert shard is not None
        reading = reader.read(connection, shard.cursor, shard.hashes, limit=100)
        told["read"] = [[row[1], row[2], row[3].decode()] for row in reading.rows]
        shard = reader.save(connection, shard, reading.cursor, lease_s=30)
        reader.release_shard(connection, shard)
        told["waiting_after"] = admin.count_backlog(connection)
    engine.dispose()
    print(json.dumps(told))


main()
'''

_DOMAIN = '''
"""Orders."""

from sqlalchemy import Connection, text

import outbox


def place(connection: Connection, item: str) -> None:
    insert = text("INSERT INTO orders (item) VALUES (:item) RETURNING id")
    order: int = connection.execute(insert, {"item": item}).scalar_one()
    message = outbox.Message("orders", str(order), "order.placed", item.encode())
    outbox.append(connection, [message])
'''

_CLIENT = '''
"""The shop books a hotel for its customers."""

from datetime import date

from innbox_client import Innbox, Reservation


def book(innbox: Innbox, night: date, end: date) -> Reservation:
    return innbox.reserve(7, night, end)
'''

_ENV = '''
"""Alembic's entry."""

import os

from alembic import context
from sqlalchemy import create_engine

with create_engine(os.environ["DATABASE_URL"]).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
'''

_MIGRATION = '''
"""The shop's first and only migration."""

from alembic import op

from outbox.schema import LATEST
from outbox.schema.operations import downgrade_outbox, upgrade_outbox

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE orders (id serial PRIMARY KEY, item text NOT NULL)")
    upgrade_outbox(LATEST)


def downgrade() -> None:
    downgrade_outbox(0, since=LATEST)
    op.execute("DROP TABLE orders")
'''

_INI = """
[alembic]
script_location = %(here)s/migrations
path_separator = os
"""

FILES = {f"{name}/__init__.py": f'"""The shop\'s {name}."""\n' for name in NAMES} | {
    name: dedent(content).lstrip()
    for name, content in {
        "shop.py": _SHOP,
        "domain/__init__.py": _DOMAIN,
        "client/__init__.py": _CLIENT,
        "migrations/env.py": _ENV,
        "migrations/versions/first.py": _MIGRATION,
        "alembic.ini": _INI,
    }.items()
}
