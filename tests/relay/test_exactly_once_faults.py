"""Exactly-once publishing through a proxy that delays, holds and cuts the requests of its transactions.

Whatever the fault, a committed reader sees every message once, those of a key in their order. The tests
read the topics for that, past the proxy; they do not take the relay's word.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer

import psutil
import pytest
from sqlalchemy import Engine

from ops import local
from ops.local import Servers
from ops.local.processes import find_one
from ops.topics import create_topics
from outbox import Message
from relay.config import CURSOR_TOPIC
from relay.publishing import transactional
from runtime.settings import Settings
from tests.conftest import a_configuration
from tests.support.brokers import start_broker
from tests.support.kafka_proxy import (
    Delay,
    Fault,
    Faults,
    Frame,
    HoldAndCut,
    KafkaProxy,
    Kind,
    a_kafka_proxy,
    no_faults,
)
from tests.support.relays import (
    a_relay,
    append,
    appended,
    assert_read_once,
    committed,
    first_deliveries,
    is_wholly_relayed,
    messages_of_keys,
)
from tests.support.waiting import eventually

KAFKA: tuple[local.Part, ...] = ("kafka",)
PROOF_SEEDS = range(20)
DEADLINE_S = 120.0

# Each write is a transaction or two of the relay's, and many are open while a held request arrives.
WRITES, WRITES_IN_SHORT, MESSAGES_PER_WRITE = 24, 12, 50


@dataclass(frozen=True)
class Cluster:
    """Three brokers, and the proxy before them."""

    kafka: str
    proxy: KafkaProxy
    data: Path

    def process(self, node: int) -> psutil.Process | None:
        return find_one("kafka.Kafka", str(self.data / f"kafka-{node}/server.properties"))

    def restart(self, node: int) -> None:
        start_broker(self.data, node, kafka_settings=self.proxy.broker_settings)


@contextmanager
def a_cluster(data: Path) -> Iterator[Cluster]:
    with (
        a_kafka_proxy(brokers=3) as proxy,
        local.running(
            data, brokers=3, durable=False, parts=KAFKA, kafka_settings=proxy.broker_settings
        ) as own,
    ):
        yield Cluster(own.kafka_bootstrap_servers, proxy, data)


def ends_held(dice: random.Random) -> Faults:
    """A request to end a transaction comes after its connection was cut and it was sent again."""

    def faults(frame: Frame) -> Fault | None:
        if frame.kind == Kind.END_TXN and dice.random() < 0.3:
            return HoldAndCut(dice.uniform(0.1, 0.3))
        return None

    return faults


def ends_delayed(dice: random.Random) -> Faults:
    def faults(frame: Frame) -> Fault | None:
        if frame.kind == Kind.END_TXN and dice.random() < 0.5:
            return Delay(dice.uniform(0.02, 1.0))
        return None

    return faults


def messages_delayed(dice: random.Random) -> Faults:
    """Messages, and the partitions that a transaction is to have, come late or twice."""

    def faults(frame: Frame) -> Fault | None:
        if frame.kind not in {Kind.PRODUCE, Kind.ADD_PARTITIONS} or dice.random() > 0.06:
            return None
        if dice.random() < 0.3:
            return HoldAndCut(dice.uniform(0.05, 0.5))
        return Delay(dice.uniform(0.02, 0.5))

    return faults


FAULTS = [ends_held, ends_delayed, messages_delayed]
FaultsOf = Callable[[random.Random], Faults]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.mark.proof
@pytest.mark.parametrize("seed", PROOF_SEEDS)
@pytest.mark.parametrize("faults_of", FAULTS, ids=lambda faults: faults.__name__)
def test_requests_that_come_late_or_twice_are_seen_by_no_reader(
    engine: Engine,
    servers: Servers,
    cluster: Cluster,
    faults_of: FaultsOf,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    run = a_run(engine, servers, cluster)
    with run.under(faults_of(random.Random(seed))):
        run.relay_all()
    assert run.injected
    record_property("injected", run.injected)
    assert_read_once(run.settings, run.messages)


@pytest.mark.proof
@pytest.mark.parametrize("seed", PROOF_SEEDS)
def test_a_coordinator_that_is_paused_or_killed_is_seen_by_no_reader(
    engine: Engine,
    servers: Servers,
    cluster: Cluster,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    run = a_run(engine, servers, cluster)
    coordinators = Coordinators(cluster, random.Random(seed))
    with run.under(coordinators.befall):
        run.relay_all()
    coordinators.join()
    assert coordinators.befallen
    record_property("injected", coordinators.befallen)
    assert_read_once(run.settings, run.messages)


@pytest.mark.parametrize("is_replaced", [True, False], ids=["fenced", "not fenced"])
def test_an_end_that_comes_between_messages_and_their_cursor(
    engine: Engine,
    servers: Servers,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_replaced: bool,
) -> None:
    """A new producer locks it out; without one, messages may be repeated, and none is lost."""
    shortest_s = transactional._retry_s_min({})
    if not is_replaced:
        monkeypatch.setattr(transactional, "_retry_s_min", lambda _kafka: math.inf)
    run = a_run(engine, servers, cluster)
    torn = TornTransaction(run.settings.kafka_prefix + CURSOR_TOPIC)
    with run.under(torn.befall):
        run.relay_all(WRITES_IN_SHORT)
    assert torn.held == torn.HOLDS
    # What tells a commit that was sent twice from one that was not: how long the client waits between.
    assert min(torn.retried_after_s) >= shortest_s
    if is_replaced:
        assert_read_once(run.settings, run.messages)
    else:
        records = committed(run.settings, run.messages)
        assert first_deliveries(records) == appended(run.messages)


@dataclass
class TornTransaction:
    """The end of one transaction is held until a part of the next one has reached the brokers.

    That part is the messages for the broker that leads the cursor topic and, unless it waits for the
    others, the cursor; the messages for other brokers come later than the held end.
    """

    cursor_topic: str
    held: int = 0
    retried_after_s: list[float] = field(default_factory=list)
    _cursor_node: int | None = None
    _held_at: float | None = None
    _is_next_open: bool = False
    _late_until: float = -math.inf

    HOLDS = 3
    HELD_S, LATE_S = 0.3, 1.0

    def befall(self, frame: Frame) -> Fault | None:
        if frame.kind == Kind.END_TXN:
            return self._befall_end()
        if frame.kind == Kind.PRODUCE:
            return self._befall_messages(frame)
        return None

    def _befall_end(self) -> Fault | None:
        now = time.monotonic()
        if self._held_at is not None:
            self.retried_after_s.append(now - self._held_at)
            self._held_at = None
        elif self._cursor_node and self.held < self.HOLDS and now > self._late_until:
            self.held, self._held_at, self._is_next_open = self.held + 1, now, False
            return HoldAndCut(self.HELD_S, lambda: self._is_next_open)
        return None

    def _befall_messages(self, frame: Frame) -> Fault | None:
        now = time.monotonic()
        if self.cursor_topic.encode() in frame.content:
            self._cursor_node = frame.node
            return None
        if self.held and self._held_at is None and not self._is_next_open:
            self._is_next_open, self._late_until = True, now + self.LATE_S
        is_late = now < self._late_until and frame.node != self._cursor_node
        return Delay(self.LATE_S) if is_late else None


@dataclass
class Coordinators:
    """Now and then the broker that is asked to end a transaction stops, for a moment or for longer."""

    cluster: Cluster
    dice: random.Random
    befallen: list[str] = field(default_factory=list)
    _healing: list[Timer] = field(default_factory=list)

    MAX = 3

    def befall(self, frame: Frame) -> None:
        if any(timer.is_alive() for timer in self._healing) or len(self.befallen) == self.MAX:
            return
        process = self.cluster.process(frame.node) if frame.kind == Kind.END_TXN else None
        if process is None or self.dice.random() > 0.3:
            return
        what, heal, seconds = self.dice.choice(
            [
                ("paused", process.resume, self.dice.uniform(0.2, 1.5)),
                # Longer than the cluster takes it for alive: another broker is the coordinator then.
                ("paused for long", process.resume, self.dice.uniform(5.0, 8.0)),
                ("killed", lambda: self.cluster.restart(frame.node), self.dice.uniform(0.0, 3.0)),
            ]
        )
        process.kill() if what == "killed" else process.suspend()
        self.befallen.append(what)
        self._healing.append(Timer(seconds, heal))
        self._healing[-1].start()

    def join(self) -> None:
        for timer in self._healing:
            timer.join()


@dataclass
class Run:
    """A database of messages, to be relayed through the proxy."""

    engine: Engine
    cluster: Cluster
    settings: Settings
    messages: list[Message] = field(default_factory=list)

    @property
    def injected(self) -> int:
        return self.cluster.proxy.injected.total()

    @contextmanager
    def under(self, faults: Faults) -> Iterator[None]:
        proxy = self.cluster.proxy
        proxy.injected.clear()
        proxy.faults = faults
        try:
            yield
        finally:
            proxy.faults = no_faults

    def relay_all(self, writes: int = WRITES) -> None:
        behind = {"kafka_bootstrap_servers": self.cluster.proxy.bootstrap_servers}
        with a_relay(self.settings.model_copy(update=behind)):
            for _ in range(writes):
                self.messages += (more := messages_of_keys(MESSAGES_PER_WRITE, keys=20))
                append(self.engine, *more)
            eventually(lambda: is_wholly_relayed(self.engine), deadline_s=DEADLINE_S)


def a_run(engine: Engine, servers: Servers, cluster: Cluster) -> Run:
    """Topics of its own, which the brokers keep three times."""
    settings = a_configuration(
        Servers(servers.database_url, cluster.kafka),
        engine.url.render_as_string(hide_password=False),
        relay_mode="exactly-once",
        relay_chunk=MESSAGES_PER_WRITE,
        topic_replication=3,
    )
    create_topics(settings)
    return Run(engine, cluster, settings)
