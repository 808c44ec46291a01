"""Publishing again what the outbox still has: same ids, headers, keys and values, in order of position.

A replay publishes at least once, whatever the relay's mode is: a crash before its progress is saved
repeats the part that was being published. Each message carries one header more, so that a consumer can
tell. An outage of the brokers is waited out. A message that they refuse ends the run, or is passed over
if one wishes.
"""

import time
from collections.abc import Callable, Iterator
from threading import Event

import msgspec
from confluent_kafka import KafkaException
from sqlalchemy import Connection

from innbox_process.health import Health
from outbox import admin
from outbox.admin import Replay, ReplayState
from outbox.reader import decode_headers
from relay.config import RelayConfig
from relay.publishing.errors import Abandoned, KeepWaiting, PublishRefused
from relay.publishing.producer import MessageProducer, Row, reason_of

# The id of the replay, in the form of the CloudEvents extensions beside it. What a mend publishes has
# another one: no consumer may have seen it, so a consumer that skips replays must not skip it.
REPLAY_HEADER, MEND_HEADER = "ce_replayid", "ce_mendid"


class MessageRefused(Exception):
    """The message that is refused, known by itself because it was sent alone."""

    def __init__(self, row: Row, cause: PublishRefused) -> None:
        self.position, topic, key, _, _, self.message_id = row
        super().__init__(
            f"message {self.message_id} (topic {topic!r}, key {key!r}, position {self.position}) "
            f"was refused: {cause.reason}"
        )


def run_replay(
    connection: Connection,
    replay: Replay,
    config: RelayConfig,
    stop: Event,
    report: Callable[[Replay], object],
    *,
    skip_refused: bool = False,
) -> Replay:
    """Publish what is left of a replay that this session has taken; a stop ends it after a part.

    Returns it DONE, INTERRUPTED or REFUSED. Raises `ReplayOver` if it was cancelled meanwhile, and
    `KafkaException` for what the brokers hold against no message; it can be taken again.
    """
    while replay.state == ReplayState.RUNNING and not stop.is_set():
        try:
            for step in _steps(connection, replay, config, stop):
                replay = step
                report(replay)
        except Abandoned:
            break
        except PublishRefused:
            # One of several: from the saved position again, where parts begin with a single message.
            continue
        except MessageRefused as error:
            if not skip_refused:
                return admin.stop_replay(connection, replay.id, ReplayState.REFUSED, str(error))
            replay = admin.save_replay(connection, replay, error.position, refused=1)
        except KafkaException as error:
            # No message's fault, and nothing that waiting would mend: a missing topic or right, say.
            admin.stop_replay(connection, replay.id, ReplayState.INTERRUPTED, reason_of(error))
            raise
    if replay.state == ReplayState.RUNNING:
        return admin.stop_replay(connection, replay.id, ReplayState.INTERRUPTED)
    return replay


def replay_once(
    connection: Connection,
    replay: Replay,
    producer: MessageProducer,
    keep_waiting: KeepWaiting,
    *,
    limit: int,
) -> Replay:
    """Publish the next part and record it. Raises `MessageRefused` if it was one message alone."""
    part = admin.read_replay(connection, replay, limit=limit)
    try:
        producer.enqueue([_marked(row, replay) for row in part.rows], keep_waiting)
        producer.flush(keep_waiting)
    except PublishRefused as error:
        if len(part.rows) == 1:
            raise MessageRefused(part.rows[0], error) from error
        raise
    return admin.save_replay(connection, replay, part.position, sent=len(part.rows), gone=part.gone)


def next_turn(turn_at: float, now: float, messages: int, per_second: int) -> float:
    """Return when the next part may be sent; 0 a second is no limit.

    What an outage or a pause has held up is not made up for by going faster after it.
    """
    return max(turn_at, now) + messages / per_second if per_second else now


def _steps(
    connection: Connection, replay: Replay, config: RelayConfig, stop: Event
) -> Iterator[Replay]:
    """Return the replay after each part; parts grow from one message to at most a second's worth."""
    most = min(config.chunk, replay.per_second or config.chunk)
    limit, turn_at = 1, time.monotonic()
    with MessageProducer(config.kafka, Health(), topic_prefix=config.topic_prefix) as producer:
        while replay.state == ReplayState.RUNNING and not stop.wait(
            max(0.0, turn_at - time.monotonic())
        ):
            before, now = replay.sent, time.monotonic()
            replay = replay_once(
                connection, replay, producer, lambda: not stop.is_set(), limit=limit
            )
            yield replay
            turn_at = next_turn(turn_at, now, replay.sent - before, replay.per_second)
            limit = min(limit * 2, most)


def _marked(row: Row, replay: Replay) -> Row:
    position, topic, key, value, encoded, _ = row
    mark = MEND_HEADER if replay.is_mend else REPLAY_HEADER
    try:
        headers = decode_headers(encoded) | {mark: str(replay.id)}
    except ValueError as error:  # JSON, and no headers: a writer that is not `append`
        raise PublishRefused(topic, key, str(error)) from error
    return position, topic, key, value, msgspec.json.encode(headers), None
