"""`acknowledge`: a person knows of what an audit has found, and says why it may stay."""

from collections import Counter
from collections.abc import Collection
from typing import Any
from uuid import UUID

import click

from outbox import admin
from relay.audit import Finding
from relay.cli.audit import audit_options, audited, window_of
from relay.cli.deployment import Where, on_database
from relay.cli.output import as_json, confirm, print_json, print_status, progress
from relay.cli.params import ids_from, person

NOTHING_FOUND = 1


@click.command()
@click.argument("ids", type=click.UUID, nargs=-1)
@ids_from
@click.option("--all", "everything", is_flag=True, help="All that the audit finds; asks first.")
@click.option("--reason", required=True, help="Why it may stay; it is kept with who and when.")
@audit_options
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@as_json
@on_database
def acknowledge(
    where: Where,
    /,
    *,
    ids: tuple[UUID, ...],
    ids_from: tuple[UUID, ...],
    everything: bool,
    reason: str,
    yes: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of an audit
) -> int:
    """Acknowledge findings of an audit, so that they no longer make it fail.

    Audits, and acknowledges what it finds of these messages, or everything. What is acknowledged is kept
    with who, when and why; `PROGRAM audit --all` lists it. A finding of another message, or of
    another kind, makes the audit fail as before. Exit code 1 if there was nothing to acknowledge of one
    of the ids.

    \b
    PROGRAM acknowledge 0f8fad5b-d9cb-469f-a165-70867728950e --reason "a test message"
    PROGRAM acknowledge --all --since 2026-12-24 --until 2026-12-25 --reason "INC-12: broker 2"
    """
    wanted = {*ids, *ids_from}
    if everything == bool(wanted):
        raise click.UsageError("give ids (or --ids-from), or --all")
    if not reason.strip():
        raise click.BadParameter("say why", param_hint="'--reason'")

    window = window_of(options.pop("since"), options.pop("until"))
    with progress() as report:
        found = audited(where, window, report, **options, named_max=0)
    findings = [
        finding
        for finding in found.findings
        if not finding.is_acknowledged and (everything or UUID(finding.message_id) in wanted)
    ]
    if everything or not as_json:
        _print_counts(findings)
    if everything and findings:
        confirm(f"Acknowledge {len(findings):,} findings?", yes=yes)
    done = _acknowledged(where, findings, reason)
    unfound = sorted(map(str, wanted - {UUID(finding.message_id) for finding in findings}))
    if as_json:
        names = ("database", "kind", "topic", "message_id")
        told = [{name: getattr(finding, name) for name in names} for finding in findings]
        print_json({"acknowledged": told, "nothing_found": unfound})
    for message_id in unfound:
        print_status(f"message {message_id}: the audit finds nothing to acknowledge")
    print_status(f"{done:,} findings acknowledged.")
    return NOTHING_FOUND if unfound else 0


def _print_counts(findings: Collection[Finding]) -> None:
    counted = Counter((finding.topic, finding.kind) for finding in findings)
    for (topic, kind), count in sorted(counted.items()):
        print_status(f"{topic}: {kind.replace('_', ' ')}: {count:,}")


def _acknowledged(where: Where, findings: Collection[Finding], reason: str) -> int:
    """Keep them, each in the database of its message."""
    done = 0
    for database in where.each():
        ours = [
            admin.Finding(finding.kind, finding.topic, UUID(finding.message_id))
            for finding in findings
            if finding.database == database.name
        ]
        if ours:
            with where.engine(database) as engine, engine.begin() as connection:
                done += admin.acknowledge(connection, ours, acknowledged_by=person(), reason=reason)
    return done
