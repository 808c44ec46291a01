"""`innbox up`: everything on one machine until Ctrl-C, and one screen with the state of each process."""

import signal
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from threading import Event
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from sqlalchemy import make_url

from api.identity.scopes import INVENTORY, READ, WRITE
from api.identity.signing import sign
from ops import signals
from ops.stack import Running, running_stack
from ops.supervisor import ChildState
from relay.cli.output import console, print_status
from runtime.settings import SettingsError

REFRESH_S = 1.0

# The counter of a process's work, by the first word of its name.
COUNTERS = {
    "api": "innbox_http_request_seconds_count",
    "relay": "innbox_relay_messages_total",
    "rooms": "innbox_consumer_messages_total",
    "results": "innbox_consumer_messages_total",
}
# Of the API's requests only those of clients: probes are not its work.
ROUTES = "/v1"


def run_up(data: Path, *, port: int, brokers: int) -> None:
    """Run until SIGINT or SIGTERM, then stop everything in order."""
    with running_stack(data, print_status, port=port, brokers=brokers) as stack:
        show_until_stopped(stack)
    print_status("Stopped. The data is kept; `innbox local reset` erases it.")


def show_until_stopped(stack: Running) -> None:
    """Print the processes and their URLs, until SIGINT or SIGTERM."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        _print_urls(stack)
        show = _show_screen if console.is_terminal else _print_changes
        show(stack, stop)
        print_status("Stopping …")
    finally:
        # A second signal is ignored until the stack has stopped. The handlers from before are not
        # restored yet: only stopping is left, and the block around the stack restores them.
        signals.ignore_further()


def changes(before: Mapping[str, ChildState], now: Iterable[ChildState]) -> Iterator[str]:
    """Return a line for each process whose state has changed since."""
    for state in now:
        was = before.get(state.name)
        if was is None or _compared(was) != _compared(state):
            yield f"{state.name} {_change(was, state)}"


def done(name: str, metrics: str) -> float:
    """Return the process's counter, summed over its labels, from its metrics page."""
    counter = COUNTERS[name.partition("-")[0]]
    families = text_string_to_metric_families(metrics)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == counter and sample.labels.get("route", ROUTES).startswith(ROUTES)
    )


def _print_urls(stack: Running) -> None:
    url = stack.api_url
    lines = [f"\nAPI      {url}/v1   (OpenAPI: {url}/schema)"]
    for database in map(make_url, stack.settings.databases):
        lines += [f"Postgres {database.render_as_string(hide_password=True)}"]
    lines += [f"Kafka    {stack.settings.kafka_bootstrap_servers}"]
    try:
        token = sign(stack.settings, 7, scopes=(READ, WRITE, INVENTORY), lifetime_s=12 * 3600)
        lines += ["Token of member 7 (scopes read, write and inventory):", token]
    except SettingsError as reason:
        lines += [f"No token: {reason}"]
    for line in (*lines, "Ctrl-C stops everything.\n"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show_screen(stack: Running, stop: Event) -> None:
    with Live(console=console, refresh_per_second=2) as live:
        while not stop.is_set():
            live.update(_screen(stack))
            stop.wait(REFRESH_S)


def _print_changes(stack: Running, stop: Event) -> None:
    """Print a line for each change, where there is no terminal."""
    before: dict[str, ChildState] = {}
    while not stop.is_set():
        now = stack.supervisor.states()
        for line in changes(before, now):
            print_status(line)
        before = {state.name: state for state in now}
        stop.wait(REFRESH_S)


def _compared(state: ChildState) -> tuple[bool, int, bool]:
    return state.pid is None, state.restarts, state.is_ready


def _change(was: ChildState | None, state: ChildState) -> str:
    if state.pid is None:
        return f"has died; see {state.log}"
    readiness = "is ready" if state.is_ready else f"is not ready: {state.problems}"
    if was is not None and was.restarts != state.restarts:
        return f"died and was restarted (pid {state.pid}); it {readiness}"
    return f"{readiness} (pid {state.pid})"


def _screen(stack: Running) -> Table:
    table = Table("process", "pid", "state", "done", "restarts", "log")
    for state in stack.supervisor.states():
        table.add_row(
            state.name,
            str(state.pid or ""),
            "[green]ready[/]" if state.is_ready else f"[yellow]{escape(state.problems)}[/]",
            _done(state.name, state.health_url) if state.answers else "",
            str(state.restarts),
            escape(str(state.log)),
        )
    return table


def _done(name: str, url: str) -> str:
    try:
        with urlopen(f"{url}/metrics", timeout=1) as response:  # noqa: S310 - a child's URL
            return f"{done(name, response.read().decode()):,.0f}"
    except (OSError, HTTPException):
        return ""
