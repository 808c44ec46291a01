"""`innbox up`: everything on one machine until Ctrl-C, and one screen that shows how each fares."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from urllib.request import urlopen

from rich.live import Live
from rich.table import Table

from api.auth import sign
from ops.cli.output import console, say
from ops.stack import Running, running_stack

REFRESH_S = 1.0

# Which counter tells what a process has done, by the process's first word.
COUNTERS = {
    "api": "innbox_http_requests_total",
    "relay": "innbox_relay_messages_total",
    "rooms": "innbox_consumer_messages_total",
    "results": "innbox_consumer_messages_total",
}


def run_up(data: Path, *, port: int, brokers: int) -> None:
    """Run until SIGINT or SIGTERM, then stop all in good order."""
    with running_stack(data, say, port=port, brokers=brokers) as stack:
        look_around(stack)
    say("Stopped. The data stays; `innbox local reset` erases it.")


def look_around(stack: Running) -> None:
    """Show what runs and where, until SIGINT or SIGTERM."""
    with _asked_to_stop() as stop:
        _welcome(stack)
        if console.is_terminal:
            _show(stack, stop)
        else:
            stop.wait()
        say("Stopping …")


def _welcome(stack: Running) -> None:
    token = sign(stack.settings, 7, scopes=("inventory",), lifetime_s=12 * 3600)
    url = stack.api_url
    console.print(f"\nAPI      {url}/v1   (OpenAPI: {url}/schema)", highlight=False)
    console.print(f"Postgres {stack.settings.database_url}", highlight=False)
    console.print(f"Kafka    {stack.settings.kafka_bootstrap_servers}", highlight=False)
    console.print("Token of member 7, who may also change the inventory:", highlight=False)
    console.print(token, highlight=False, soft_wrap=True)
    console.print("Ctrl-C stops everything.\n", highlight=False)


def _show(stack: Running, stop: Event) -> None:
    with Live(console=console, refresh_per_second=2) as live:
        while not stop.is_set():
            live.update(_screen(stack))
            stop.wait(REFRESH_S)


def _screen(stack: Running) -> Table:
    table = Table("process", "pid", "state", "done", "restarts", "log")
    for state, url in stack.supervisor.states_with_urls():
        table.add_row(
            state.name,
            str(state.pid or ""),
            "[green]ready[/]" if state.is_ready else f"[yellow]{state.problems}[/]",
            _done(state.name, url),
            str(state.restarts),
            str(state.log),
        )
    return table


def _done(name: str, url: str) -> str:
    """Sum the process's counter, over its labels, as a scraper would read it."""
    counter = COUNTERS[name.partition("-")[0]]
    try:
        with urlopen(f"{url}/metrics", timeout=1) as response:  # noqa: S310 - our own process
            text = response.read().decode()
    except OSError:
        return ""
    values = re.findall(rf"^{counter}(?:{{.*}})? ([0-9.e+]+)$", text, re.MULTILINE)
    return f"{sum(map(float, values)):,.0f}"


@contextmanager
def _asked_to_stop() -> Iterator[Event]:
    """Hear Ctrl-C and SIGTERM as a wish; a second one while stopping changes nothing."""
    stop = Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
