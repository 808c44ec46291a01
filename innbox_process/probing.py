"""Probing: each process asks after what it depends on, all the time, although it has nothing to do.

A probe is a small function that answers with a problem, or None if all is well. Each has a thread and a
connection of its own, so none waits for another, and one that hangs is seen by its silence
(`innbox_process.health`). So whatever a dependency does, it shows within `SILENT_S_MAX`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from threading import Event, Thread
from typing import Protocol

from sqlalchemy import Connection, Engine, MetaData, event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from innbox_process.bounds import NoAnswer, traffic_of
from innbox_process.config import DatabaseSettings
from innbox_process.database import probing_engine
from innbox_process.errors import first_line
from innbox_process.health import SILENT_S_MAX, Health, HealthServer, hung_s

EVERY_S = 2.0
ANSWER_S = SILENT_S_MAX - EVERY_S

# An answer that takes longer is reason to see whether commits are confirmed.
SLOW_S = 2.0
_STEP_S = 0.2

# A role that may use a schema may look up what is in it.
_MISSING = text("""
    SELECT DISTINCT relation
    FROM unnest(CAST(:relations AS text[]), CAST(:columns AS text[])) AS needed (relation, name)
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass(relation) AND attname = name AND NOT attisdropped
    )
    ORDER BY relation
""")
_DECLARED = text("SELECT name FROM outbox.topic")
# The least that is a commit: it writes to the log, so it is flushed and waits for a standby as every
# commit does. It changes nothing, and readers of the log that do not ask for this prefix pass it over.
_COMMIT = text("SELECT pg_logical_emit_message(true, 'innbox.probe', '')")


class Probe(Protocol):
    """What is asked of one dependency; used from one thread, but for `end`."""

    part: str
    silence: str

    def ask(self) -> str | None:
        """Return what is wrong, or None; it may raise whatever says so."""

    def end(self) -> None:
        """End a wait for an answer; from any thread."""

    def close(self) -> None:
        """Give back what it asks with."""


@contextmanager
def ready_process(
    engine: Engine,
    database: "DatabaseProbe",
    kafka: Probe,
    host: str,
    health_port: int,
    stop: Event,
) -> Iterator[Health]:
    """Serve the health of a process, and begin the block when its database is ready.

    While the block runs, what the process depends on is probed, and its engine begins no transaction that
    would not be confirmed.
    """
    health = Health(parts=(kafka.part,), beat_s_max=hung_s(database.settings))
    commits = CommitProbe(database.settings, database.url, database.role, health)
    refuse_unconfirmed(engine, commits.check)
    with (
        closing(HealthServer(health, host, health_port)),
        probing(health, [database, commits, kafka]),
    ):
        while not stop.is_set() and database.part in health.problems:
            health.beat()
            stop.wait(_STEP_S)
        yield health


@contextmanager
def probing(health: Health, probes: Sequence[Probe]) -> Iterator[None]:
    """Ask for the length of a block."""
    ended = Event()
    threads = [_started(health, probe, ended) for probe in probes]
    try:
        yield
    finally:
        ended.set()
        for probe in probes:
            probe.end()
        for thread in threads:
            thread.join(ANSWER_S)  # one that hangs is left behind


def refuse_unconfirmed(engine: Engine, check: Callable[[], None]) -> None:
    """Have the engine begin no transaction that `check` refuses.

    Each commit that is given up leaves a session waiting in the server. More and more of them would
    take the connections that readers need.
    """

    @event.listens_for(engine, "begin")
    def refuse(_: Connection) -> None:
        check()


class DatabaseProbe:
    """Whether the database answers, has the schema, and has been told of the topics.

    It does not ask what others have just been answered: a busy database, and an idle relay's, is not
    asked for its sake.
    """

    part = "database"
    silence = f"no answer for more than {SILENT_S_MAX:g} s"

    def __init__(
        self,
        settings: DatabaseSettings,
        url: str,
        role: str,
        *,
        schema: Sequence[MetaData],
        topics: Sequence[str] = (),
    ) -> None:
        self.settings, self.url, self.role = settings, url, role
        self._ended = Event()
        self.engine = probing_engine(settings, url, role, answer_s=ANSWER_S, ended=self._ended)
        self._traffic = traffic_of(url)
        columns = [
            column
            for metadata in schema
            for table in metadata.sorted_tables
            for column in table.columns
        ]
        self._needed = {
            "relations": [f"{column.table.schema}.{column.table.name}" for column in columns],
            "columns": [column.name for column in columns],
        }
        self._topics = frozenset(topics)
        self._connection: Connection | None = None
        self._is_well = False

    def ask(self) -> str | None:
        if self._is_well and self._traffic.silent_s < EVERY_S:
            return None
        self._is_well = False  # also if it raises
        problem = self._asked()
        self._is_well = problem is None
        return problem

    def end(self) -> None:
        self._ended.set()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _asked(self) -> str | None:
        """Ask on the last connection or, if it was cut while nobody asked, on a new one."""
        is_new = self._connection is None
        try:
            self._connection = self._connection or self.engine.connect()
            return self._missing(self._connection)
        except SQLAlchemyError as error:
            self.close()
            if is_new or isinstance(getattr(error, "orig", None), NoAnswer):
                raise
        return self._asked()

    def _missing(self, connection: Connection) -> str | None:
        if missing := connection.scalars(_MISSING, self._needed).all():
            return f"no schema, or an old one ({_some(missing)}): run `migrate`"
        if not self._topics:
            return None
        undeclared = self._topics - set(connection.scalars(_DECLARED))
        if undeclared:
            return f"topics are not declared ({_some(sorted(undeclared))}): run `topics`"
        return None


class CommitProbe:
    """Whether commits are confirmed: they may wait for a standby that is not there, without end.

    It commits only if something has waited for an answer for long, and then waits itself: it is
    answered when all commits before it are. One session that waits tells as much as many.
    """

    part = "commits"
    silence = (
        f"commits have waited for more than {SILENT_S_MAX:g} s: are the standbys there that "
        "synchronous_standby_names asks for?"
    )

    def __init__(self, settings: DatabaseSettings, url: str, role: str, health: Health) -> None:
        self._ended = Event()
        self._engine = probing_engine(settings, url, role, answer_s=float("inf"), ended=self._ended)
        self.traffic = traffic_of(url)
        self._health = health

    def ask(self) -> str | None:
        if self.traffic.longest_s > SLOW_S:
            with self._engine.connect() as connection:
                connection.execute(_COMMIT)
        return None

    def end(self) -> None:
        self._ended.set()

    def close(self) -> None:
        """It keeps no connection."""

    def check(self) -> None:
        """Raise an error of the database's if a commit would not be confirmed now."""
        if self._health.is_silent(self.part):
            raise OperationalError(None, None, NoAnswer(self.silence))


def _started(health: Health, probe: Probe, ended: Event) -> Thread:
    health.expect(probe.part, silence=probe.silence)

    def run() -> None:
        while not ended.is_set():
            try:
                problem = probe.ask()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is why the part is not ready
                problem = first_line(error)
            health.probed(probe.part, problem)
            health.tell()
            ended.wait(EVERY_S)
        probe.close()

    thread = Thread(target=run, name=f"probe-{probe.part}", daemon=True)
    thread.start()
    return thread


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")  # noqa: PLR2004 - just said
