"""The time of a message from commit to consumer, at a steady rate.

The relay runs as it is deployed, the writers in a process of their own, and the consumer in this process.
The schedule is open: an event is due at its time, whatever happened to earlier ones, and a writer never
waits for the relay. So every event of a stall shows the relay's stall. A stall of the database shows in
the times since an event was due, although not in those since the commit.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import click
import msgspec
from confluent_kafka import Consumer, TopicPartition

from consumers.group import consumer_properties
from domain.messages import ROOM_RESERVE
from innbox_process.commands import reported
from ops.bench.environment import Run, a_relay, process_pool, repeating, scratch, wait_for_all
from ops.bench.measure import Measured, bounded, percentiles, relay_mode
from ops.bench.writers import HEAD_START_S, Instants, write
from runtime.settings import RelayMode, Settings

WARM_UP_S = 2.0
WRITERS = 8
LATE_S = 0.01
_POLL_S = 0.1


@click.option(
    "--rate",
    "rates",
    type=click.FloatRange(1, 100_000),
    multiple=True,
    default=(200, 1_000),
    show_default=True,
    help="Events per second; may be repeated.",
)
@bounded("--seconds", 0.1, 600, 20)
@relay_mode
def bench_latency(
    run: Run, *, rates: tuple[float, ...], seconds: float, mode: RelayMode
) -> Measured:
    """Time events from commit to consumer at a steady rate, through a relay process.

    The first two seconds of each rate warm up. The p50 and p99 at the top are the worst of all rates.

    \b
    innbox bench latency
    innbox bench latency --mode exactly-once --rate 200 --json
    """
    with (
        scratch(run.settings) as own,
        process_pool(1) as writers,
        a_relay(own, run.logs, mode=mode),
    ):
        found = [
            latency(own, writers, rate=rate, seconds=seconds)
            for rate in reported(run.report, "appending at each rate", rates)
        ]
    worst = {name: max(each[name] for each in found) for name in ("p50_ms", "p99_ms")}
    figures = {"mode": mode, "seconds": seconds, "rates": found}
    return Measured("latency", figures=worst | figures)


def latency(
    settings: Settings, writers: ProcessPoolExecutor, *, rate: float, seconds: float
) -> dict[str, float]:
    """Append at a rate while a relay runs; the first seconds warm up.

    `late` events began 10 ms or more after they were due.
    """
    writers.submit(write, settings, WRITERS, 0.0, 0.0).result()  # until it is there
    with _reading(settings) as arrived:
        # CLOCK_MONOTONIC is the same in all processes of a machine, and cannot be set.
        starts_at = time.monotonic() + HEAD_START_S
        duration_s = WARM_UP_S + seconds
        writing = writers.submit(write, settings, WRITERS, starts_at, duration_s, per_s=rate)
        begun, committed = writing.result()
        events = len(committed)
        wait_for_all(lambda: events - len(arrived), f"of {events} events have not arrived")
    due = {number: starts_at + number / rate for number in range(events)}
    counted = range(int(rate * WARM_UP_S), events)
    since_due = percentiles([arrived[number] - due[number] for number in counted])
    del since_due["count"]
    return {
        "events_per_s": rate,
        **percentiles([arrived[number] - committed[number] for number in counted]),
        **{f"since_due_{name}": value for name, value in since_due.items()},
        "late": sum(begun[number] - due[number] >= LATE_S for number in counted),
    }


@contextmanager
def _reading(settings: Settings) -> Iterator[Instants]:
    """Yield the instants at which events arrive from now on, by number."""
    arrived, topic = Instants(), settings.kafka_prefix + ROOM_RESERVE
    consumer = Consumer(consumer_properties(settings, "bench"))
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    places = [TopicPartition(topic, partition) for partition in partitions]
    for place in places:
        _, place.offset = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign(places)

    def read() -> None:
        message = consumer.poll(_POLL_S)
        now = time.monotonic()
        if message is not None and not message.error():
            number = msgspec.json.decode(message.value() or b"")["reservationId"] - 1
            arrived.setdefault(number, now)

    try:
        with repeating(read):
            yield arrived
    finally:
        consumer.close()
