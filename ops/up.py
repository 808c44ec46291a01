"""`innbox up`: everything on one machine until Ctrl-C, and one screen that shows how each fares."""

import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from threading import Event
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from sqlalchemy import make_url

from api.identity.auth import INVENTORY, READ, WRITE
from api.identity.signing import sign
from ops import signals
from ops.stack import Running, running_stack
from ops.supervisor import ChildState
from relay.cli.output import console, print_status
from runtime.settings import SettingsError

REFRESH_S = 1.0

# Which counter tells what a process has done, by the process's first word.
COUNTERS = {
    "api": "innbox_http_request_seconds_count",
    "relay": "innbox_relay_messages_total",
    "rooms": "innbox_consumer_messages_total",
    "results": "innbox_consumer_messages_total",
}
# Of the API's requests those that members make: probes and strangers' are not what it has done.
ROUTES = "/v1"


def run_up(data: Path, *, port: int, brokers: int) -> None:
    """Run until SIGINT or SIGTERM, then stop all in good order."""
    with running_stack(data, print_status, port=port, brokers=brokers) as stack:
        look_around(stack)
    print_status("Stopped. The data stays; `innbox local reset` erases it.")


def look_around(stack: Running) -> None:
    """Show what runs and where, until SIGINT or SIGTERM."""
    with _asked_to_stop() as stop:
        _welcome(stack)
        if console.is_terminal:
            _show(stack, stop)
        else:
            _tell(stack, stop)
        print_status("Stopping …")


def changes(before: Mapping[str, ChildState], now: Iterable[ChildState]) -> Iterator[str]:
    """Say of each process what has become of it since, if anything has."""
    for state in now:
        was = before.get(state.name)
        if was is None or _fate(was) != _fate(state):
            yield f"{state.name} {_news(was, state)}"


def done(name: str, metrics: str) -> float:
    """Sum the process's counter, over its labels, as a scraper would read it."""
    counter = COUNTERS[name.partition("-")[0]]
    families = text_string_to_metric_families(metrics)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == counter and sample.labels.get("route", ROUTES).startswith(ROUTES)
    )


def _welcome(stack: Running) -> None:
    url = stack.api_url
    console.print(f"\nAPI      {url}/v1   (OpenAPI: {url}/schema)", highlight=False)
    for database in map(make_url, stack.settings.databases):
        shown = database.render_as_string(hide_password=True)
        console.print(f"Postgres {escape(shown)}", highlight=False)
    console.print(f"Kafka    {stack.settings.kafka_bootstrap_servers}", highlight=False)
    try:
        token = sign(stack.settings, 7, scopes=(READ, WRITE, INVENTORY), lifetime_s=12 * 3600)
    except SettingsError as reason:
        console.print(f"No token is made here: {reason}", highlight=False, markup=False)
    else:
        console.print("Token of member 7, who may also change the inventory:", highlight=False)
        console.print(token, highlight=False, soft_wrap=True)
    console.print("Ctrl-C stops everything.\n", highlight=False)


def _show(stack: Running, stop: Event) -> None:
    with Live(console=console, refresh_per_second=2) as live:
        while not stop.is_set():
            live.update(_screen(stack))
            stop.wait(REFRESH_S)


def _tell(stack: Running, stop: Event) -> None:
    """Without a terminal: a line for each change."""
    before: dict[str, ChildState] = {}
    while not stop.is_set():
        now = stack.supervisor.states()
        for line in changes(before, now):
            print_status(line)
        before = {state.name: state for state in now}
        stop.wait(REFRESH_S)


def _fate(state: ChildState) -> tuple[bool, int, bool]:
    return state.pid is None, state.restarts, state.is_ready


def _news(was: ChildState | None, state: ChildState) -> str:
    if state.pid is None:
        return f"has died; see {state.log}"
    readiness = "is ready" if state.is_ready else f"is not ready: {state.problems}"
    if was is not None and was.restarts != state.restarts:
        return f"died and was restarted (pid {state.pid}); it {readiness}"
    return f"{readiness} (pid {state.pid})"


def _screen(stack: Running) -> Table:
    table = Table("process", "pid", "state", "done", "restarts", "log")
    for state, url in stack.supervisor.states_with_urls():
        table.add_row(
            state.name,
            str(state.pid or ""),
            "[green]ready[/]" if state.is_ready else f"[yellow]{escape(state.problems)}[/]",
            _done(state.name, url) if state.answers else "",
            str(state.restarts),
            escape(str(state.log)),
        )
    return table


def _done(name: str, url: str) -> str:
    try:
        with urlopen(f"{url}/metrics", timeout=1) as response:  # noqa: S310 - our own process
            return f"{done(name, response.read().decode()):,.0f}"
    except (OSError, HTTPException):
        return ""


@contextmanager
def _asked_to_stop() -> Iterator[Event]:
    """Hear Ctrl-C and SIGTERM as a wish; a second one changes nothing until the stack is down."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        # Not those who handled before: all that is left to do is to stop, and the block around the
        # stack will bring them back.
        signals.hear_no_more()
