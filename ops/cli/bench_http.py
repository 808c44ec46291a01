"""`innbox bench api | end-to-end | inventory`: measurements over HTTP."""

from ops.cli.bench import bench, bounded, rounds_option
from ops.cli.bench_output import bench_environment, show
from relay.cli.output import as_json


@bench.command("end-to-end")
@bounded("--reservations", 10, 1_000_000, 5_000)
@bounded("--clients", 1, 100, 8)
@as_json
def end_to_end(reservations: int, clients: int, as_json: bool) -> None:
    """Time reservations over HTTP from the request to the final status, through all processes.

    \b
    innbox bench end-to-end
    innbox bench end-to-end --clients 1 --reservations 1000 --json
    """
    from ops.bench import bench_end_to_end

    with bench_environment() as (settings, logs, report):
        found = bench_end_to_end(settings, logs, report, reservations=reservations, clients=clients)
    show(found, as_json=as_json)


@bench.command()
@bounded("--callers", 1, 200, 16)
@bounded("--seconds", 1, 600, 5)
@bounded("--rate", 1.0, 100_000, 200, "Requests per second for the times.")
@rounds_option
@as_json
def api(callers: int, seconds: int, rate: float, rounds: int, as_json: bool) -> None:
    """Reserve over HTTP with two API processes, beside pgbench with the same SQL.

    For contrast also one process, pgbench pipelined, and the framework without the database. --seconds is
    the length of one turn; p50 and p99 are those at the rate, with two processes.

    \b
    innbox bench api                       about two minutes
    innbox bench api --callers 32 --json
    """
    from ops.bench import bench_api

    with bench_environment() as (settings, logs, report):
        found = bench_api(
            settings, logs, report, callers=callers, seconds=seconds, rounds=rounds, rate=rate
        )
    show(found, as_json=as_json)


@bench.command()
@bounded("--rooms", 1, 10_000, 1_000)
@bounded("--nights", 2, 1_000, 730)
@as_json
def inventory(rooms: int, nights: int, as_json: bool) -> None:
    """Load calendars in bulk over HTTP, each night a line, and search all rooms for a stay.

    There is no baseline. Postgres times the searches: a page of a hundred, and the worst case, in which
    all rooms are read and none is bookable.

    \b
    innbox bench inventory                    about three minutes
    innbox bench inventory --rooms 100 --json
    """
    from ops.bench import bench_inventory

    with bench_environment() as (settings, logs, report):
        found = bench_inventory(settings, logs, report, rooms=rooms, nights=nights)
    show(found, as_json=as_json)
