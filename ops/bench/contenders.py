"""What `innbox bench saga` compares: innbox, and two designs that stand beside it in the same run.

All have innbox's API, consumers, topics and rooms, each in a database of its own. What differs is how an
event gets from the database to Kafka.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import text

from ops.bench import polling
from ops.bench.consumer import open_rooms
from ops.bench.environment import execute, scratch, session, with_api
from ops.bench.load import OPENS_IN_DAYS
from ops.supervisor import Child, children_of
from runtime.settings import Settings

# A saga that is open for good must show, and not be begun again.
_NEVER_S = 1e8
_PENDING = "FROM reservations.reservation WHERE status = 'PENDING'"
_IS_PENDING = text(f"SELECT EXISTS (SELECT {_PENDING})")
_COUNT_PENDING = text(f"SELECT count(*) {_PENDING}")
_LOOK_S = 0.02


class Contender(NamedTuple):
    """A design: the module that its processes are, which are killed in turn, and its own settings."""

    name: str
    module: str
    killed: Sequence[str]
    settings: Settings

    @property
    def has_relay(self) -> bool:
        return "relay" in self.killed

    def children(self, logs: Path) -> list[Child]:
        children = children_of(self.settings, logs / self.name)
        for child in children:
            child.arguments = [self.module if one == "innbox" else one for one in child.arguments]
        return [child for child in children if child.name != "relay" or self.has_relay]

    def drained(self, within_s: float) -> tuple[int, int]:
        """Wait until nothing is pending; returns what was pending before, and what is after so long."""
        with session(self.settings) as connection:  # one: to connect takes more than to look
            pending = connection.execute(_COUNT_PENDING).scalar_one()
            ends_at = time.monotonic() + within_s
            while connection.scalar(_IS_PENDING) and time.monotonic() < ends_at:
                time.sleep(_LOOK_S)  # between two looks
            return pending, connection.execute(_COUNT_PENDING).scalar_one()

    def pending_for_good(self, quiet_s: float, within_s: float) -> int:
        """Wait until nothing is pending, or nothing has changed for so long; returns what is pending."""
        with session(self.settings) as connection:
            pending, changed_at = connection.execute(_COUNT_PENDING).scalar_one(), time.monotonic()
            ends_at = changed_at + within_s
            while pending and time.monotonic() < min(changed_at + quiet_s, ends_at):
                time.sleep(_LOOK_S)  # between two looks
                if (now := connection.execute(_COUNT_PENDING).scalar_one()) != pending:
                    pending, changed_at = now, time.monotonic()
            return int(pending)


@contextmanager
def innbox(settings: Settings) -> Iterator[Contender]:
    """The outbox, its relay that a doorbell wakes, and consumers in batches."""
    with _hotel(settings) as own:
        yield Contender("innbox", "innbox", ("api", "relay", "rooms"), own)


@contextmanager
def save_then_send(settings: Settings) -> Iterator[Contender]:
    """Commit, then send the event inside the request; see `ops.bench.save_then_send`."""
    with _hotel(settings, batch_size_max=1) as own:
        yield Contender("save_then_send", "ops.bench.save_then_send", ("api", "rooms"), own)


@contextmanager
def polling_outbox(settings: Settings) -> Iterator[Contender]:
    """A table with a status, polled; see `ops.bench.polling`."""
    with _hotel(settings, batch_size_max=1) as own:
        for statement in polling.TABLE:
            execute(own, statement)
        yield Contender("polling", "ops.bench.polling", ("api", "relay", "rooms"), own)


@contextmanager
def _hotel(settings: Settings, **changes: object) -> Iterator[Settings]:
    """Yield the settings of a hotel with rooms for everybody, and bounds that no member reaches."""
    unbounded = {
        "requests_per_s_max": 1e6,
        "requests_burst_max": 1_000_000,
        "pending_per_member_max": 100_000,
        "redrive_after_s": _NEVER_S,
    }
    with scratch(with_api(settings, **unbounded, **changes)) as own:
        opens_on = datetime.now(UTC).date() + timedelta(days=OPENS_IN_DAYS)
        open_rooms(own.rooms_database_url, opens_on)
        yield own
