"""`rebase`: the step after a restore; it makes sequences and cursors right."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from innbox_process.commands import CommandError
from innbox_process.database import is_conflict
from outbox import admin, reader
from outbox.admin import Sequence, StillRelayed, TransactionIdsRestarted
from outbox.reader import ForeignCursor, SequenceBehind
from relay.cli.deployment import Where, on_database
from relay.cli.output import as_json, confirm, print_json, print_status, print_table, progress, yes


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@yes
@click.option(
    "--same-transaction-ids",
    is_flag=True,
    help="After pg_upgrade: take the cursors as they are, or refuse.",
)
@as_json
@on_database
def rebase(
    where: Where, *, dry_run: bool, yes: bool, same_transaction_ids: bool, as_json: bool
) -> None:
    """Make a restored database's sequences and cursors right, so that nothing is lost.

    A sequence that would give out what its column has already is advanced, whatever its schema; cursors
    that come from another cluster become this cluster's. Repeatable: what is right stays as it is.

    Relays may run: they wait for it, and go on by themselves. Writers wait while it works.

    \b
    PROGRAM rebase --dry-run
    PROGRAM rebase
    """
    found = []
    for database in where.each():
        with where.engine(database, is_patient=True) as engine:
            told = {"database": database.name, **_foreseen(engine)}
            sequences: list[Sequence] = told["sequences"]
            _show(told, as_json=as_json)
            if (told["is_foreign"] or sequences) and not dry_run:
                confirm("Rebase it?", yes=yes, otherwise=", or --dry-run to look only")
                if told["is_foreign"] or told["is_position_behind"]:
                    told["rewritten"] = _rebased(engine, same_transaction_ids=same_transaction_ids)
                _advance(engine, sequences)
        found.append({**told, "sequences": [_shown(one) for one in sequences]})
    if as_json:
        print_json({"databases": found})


def _foreseen(engine: Engine) -> dict[str, Any]:
    with engine.begin() as connection:
        sequences = admin.sequences_behind(connection)
        told = {"sequences": sequences, "is_position_behind": _is_position_behind(connection)}
        try:
            reader.check_cluster_identity(connection)
        except ForeignCursor as error:
            plan = asdict(admin.plan_rebase(connection))
            return {"is_foreign": True, "reason": str(error), **told, **plan}
    return {"is_foreign": False, **told}


def _is_position_behind(connection: Connection) -> bool:
    try:
        reader.check_positions(connection)
    except SequenceBehind:
        return True
    return False


def _rebased(engine: Engine, *, same_transaction_ids: bool) -> int | None:
    in_use = "a transaction has the outbox in use, and did not end in time; try again"
    try:
        with (
            _in_words(f"nothing was changed: {in_use}"),
            progress() as report,
            engine.begin() as connection,
        ):
            rewritten = admin.rebase(
                connection, same_transaction_ids=same_transaction_ids, report=report
            )
    except (StillRelayed, TransactionIdsRestarted) as error:
        raise CommandError(f"nothing was changed: {error}") from error
    if rewritten is None:
        print_status("The cursors are of this cluster, and stay.")
    else:
        vacuum = " Now run VACUUM (ANALYZE) outbox.message." if rewritten else ""
        print_status(f"Rebased; {rewritten:,} rows were rewritten.{vacuum}")
    return rewritten


def _advance(engine: Engine, sequences: list[Sequence]) -> None:
    """Each in a transaction of its own: locks of several tables might meet a writer's in a circle."""
    for sequence in sequences:
        in_use = (
            f"{sequence.table_schema}.{sequence.table} is in use by a transaction that did not end in "
            "time; run the command again: it goes on with the sequences that are left"
        )
        with _in_words(in_use), engine.begin() as connection:
            admin.advance_sequence(connection, sequence)
        print_status(f"{sequence.schema}.{sequence.name} is advanced beyond {sequence.highest}.")


@contextmanager
def _in_words(message: str) -> Iterator[None]:
    """Say so if the transaction could not acquire a lock, or lost against another one."""
    try:
        yield
    except DBAPIError as error:
        if not is_conflict(error):
            raise
        raise CommandError(message) from error


def _shown(sequence: Sequence) -> dict[str, Any]:
    return {
        "sequence": f"{sequence.schema}.{sequence.name}",
        "column": f"{sequence.table_schema}.{sequence.table}.{sequence.column}",
        "next_value": sequence.next_value,
        "highest": sequence.highest,
    }


def _show(told: dict[str, Any], *, as_json: bool) -> None:
    for sequence in map(_shown, told["sequences"]):
        print_status(
            f"{sequence['sequence']} is behind: it gives out {sequence['next_value']} next, and "
            f"{sequence['column']} has {sequence['highest']} already."
        )
    if not told["is_foreign"]:
        if not told["sequences"]:
            print_status(f"{told['database']}: nothing to do, the cursors are of this cluster.")
        return

    print_status(f"{told['database']}: {told['reason']}.")
    if told["ids_go_on"]:
        print_status(
            "Transaction ids go on here: the cursors can stay, only their cluster is changed."
        )
    if not as_json:
        published, unpublished = told["published"], told["unpublished"]
        print_table(
            f"What a rebase of {told['database']} finds",
            ("topic", "published", "to be published"),
            [(topic, published[topic], unpublished[topic]) for topic in published],
        )
