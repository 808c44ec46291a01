"""`migrate`: the outbox's tables in a database of anybody's, without a migration tool."""

from collections.abc import Sequence

import click
from sqlalchemy import Engine, text

from outbox.schema import LATEST, grants, installed_version, upgrades
from relay.cli.deployment import Where, on_database
from relay.cli.output import as_json, print_json, print_status

# Any number that nobody else takes, so that two who migrate at once do so one after the other.
LOCK = 7_073_002_311


@click.command()
@click.option(
    "--sql", is_flag=True, help="Print the SQL, to be run in one transaction, and do nothing."
)
@click.option(
    "--since", type=int, default=0, show_default=True, help="With --sql: the version that is there."
)
@click.option(
    "--relay-role", "relays", multiple=True, metavar="ROLE", help="Grant it what a relay needs."
)
@click.option(
    "--writer-role", "writers", multiple=True, metavar="ROLE", help="Grant it the right to append."
)
@as_json
@on_database
def migrate(
    where: Where,
    *,
    sql: bool,
    since: int,
    relays: tuple[str, ...],
    writers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the outbox's tables, or bring them to the newest version.

    They live in the schema `outbox`, which must be theirs alone. All of it is one transaction.
    Repeatable. Roles are optional; a role that is named must exist. A project with Alembic can make the
    tables in its own migrations instead, with `outbox.schema.operations`.

    \b
    PROGRAM migrate
    PROGRAM migrate --relay-role shop_relay --writer-role shop
    PROGRAM migrate --sql > outbox.sql
    """
    rights = grants(relays=relays, writers=writers)
    if sql:
        click.echo(_sql(since, rights))
        return
    reached = {}
    for database in where.each():
        with where.engine(database, is_patient=True) as engine:
            before, after = _migrated(engine, rights)
        reached[database.name] = {"from": before, "to": after}
        if not as_json:
            print_status(
                f"{database.name}: version {after}, as it was"
                if before == after
                else f"{database.name}: version {before or 'none'} → {after}"
            )
    if as_json:
        print_json({"databases": reached})


def _migrated(engine: Engine, rights: Sequence[str]) -> tuple[int, int]:
    with engine.begin() as connection:
        # Rather fail than hold up writers behind a lock that does not come.
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        before = installed_version(connection)
        for statement in (*upgrades(since=before, to=LATEST), *rights):
            connection.exec_driver_sql(statement)
    return before, LATEST


def _sql(since: int, rights: Sequence[str]) -> str:
    try:
        statements = [*upgrades(since=since), *rights]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--since'") from error
    return "\n".join(f"{statement.strip()};" for statement in statements)
