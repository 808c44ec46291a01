"""`innbox demo | verify`: the commands that check the invariants."""

from pathlib import Path
from typing import Any

import click

from ops.cli.root import cli
from ops.cli.servers import brokers_option, temporary
from ops.environment import settings_for
from relay.cli.output import as_json, console, print_json, print_status, print_table, progress

VIOLATED = 1

_COUNTS = ("reservations", "confirmed", "rejected", "cancelled")
_FAILURES = ("open", "lost", "doubled", "oversold", "violations")


@cli.command()
@click.option("--reservations", type=click.IntRange(min=1), default=1_200, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the random requests.")
@click.option(
    "--hotel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own hotel, a TOML file; `innbox demo --sample` prints an example.",
)
@click.option("--sample", is_flag=True, help="Print the sample hotel and exit.")
@brokers_option
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C.")
@as_json
def demo(
    reservations: int,
    seed: int,
    hotel: Path | None,
    sample: bool,
    brokers: str,
    keep: bool,
    as_json: bool,
) -> int:
    """Reserve through HTTP, Postgres and Kafka, kill processes on the way, and verify.

    Everything runs in a temporary directory, which is removed at the end, and not in --data; servers
    that the environment names are used instead. Exit code 1 if an invariant is violated, a
    reservation is left open, or the answers differ from the stored reservations.
    """
    from ops.demo.guests import SAMPLE, load_hotel
    from ops.demo.run import run_demo
    from ops.stack import running_stack

    if sample:
        click.echo(SAMPLE.read_text(encoding="utf-8"), nl=False)
        return 0

    chosen = load_hotel(hotel)
    with (
        temporary("innbox-demo-") as data,
        running_stack(data, print_status, brokers=int(brokers)) as stack,
    ):
        with progress() as report:
            outcome, verdict = run_demo(stack, chosen, reservations, seed, report)
        if as_json:
            print_json(outcome)
        else:
            _print_demo(outcome, chosen.name)
            _print_violations(verdict.as_dict())
        if keep:
            from ops.up import show_until_stopped

            show_until_stopped(stack)
        if not outcome["holds"]:
            raise click.exceptions.Exit(VIOLATED)
    return 0


@cli.command()
@click.option(
    "--all", "name_all", is_flag=True, help="Name all violations, not the first 100 of each."
)
@as_json
@click.pass_obj
def verify(data: Path, name_all: bool, as_json: bool) -> int:
    """Check the invariants in the databases and the topics, while the system runs.

    Exit code 1 if an invariant is violated; the offending ids are named.
    """
    from ops.verify import VIOLATIONS_NAMED_MAX
    from ops.verify import verify as verify_now

    named_max = None if name_all else VIOLATIONS_NAMED_MAX
    with progress() as report:
        verdict = verify_now(settings_for(data), report=report, named_max=named_max)
    if as_json:
        print_json(verdict.as_dict())
    else:
        print_table(
            "Invariants",
            ("", "promise", "how it was checked", "rows", "violations"),
            [
                (
                    one.invariant,
                    one.promise,
                    "\n".join([one.how, *one.notes]),
                    f"{one.rows:,}",
                    one.violations_count or "none",
                )
                for one in verdict.findings
            ],
        )
        _print_violations(verdict.as_dict())
        print_status(
            "The system was at rest."
            if verdict.at_rest
            else "The system was not at rest: messages in flight were exempt."
        )
    return 0 if verdict.holds else VIOLATED


def _print_demo(outcome: dict[str, Any], hotel: str) -> None:
    kills = "; ".join(
        f"{kill['process']} (pid {kill['pid']}) after {kill['after_reservations']} reservations"
        for kill in outcome["kills"]
    )
    latency = outcome["latency_ms"]
    rows = [(name, f"{outcome[name]:,}") for name in (*_COUNTS, *_FAILURES)]
    rows += [
        ("request to result", f"p50 {latency['p50']:,} ms, p99 {latency['p99']:,} ms"),
        ("without a result in time", f"{outcome['without_result_in_time']:,}"),
        ("killed with SIGKILL", kills or "none"),
        ("seconds", str(outcome["seconds"])),
    ]
    print_table(hotel, ("", ""), rows)
    console.print(verdict_line(outcome))


def verdict_line(outcome: dict[str, Any]) -> str:
    """Return the last line of the demo; a failure names the counts that should be 0."""
    if outcome["holds"]:
        return "[green]Every invariant holds.[/]"
    failures = (f"{outcome[name]:,} {name}" for name in _FAILURES if outcome[name])
    return f"[red]FAILED:[/] {', '.join(failures)}"


def _print_violations(verdict: dict[str, Any]) -> None:
    for finding in verdict["findings"]:
        for violation in finding["violations"]:
            console.print(f"{finding['invariant']}: {violation}", highlight=False, markup=False)
        if unnamed := finding["violations_count"] - len(finding["violations"]):
            console.print(
                f"{finding['invariant']}: {unnamed:,} more; `innbox verify --all` names them"
            )
