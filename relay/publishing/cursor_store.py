"""Where the place of a shard is kept: in Postgres alone, or in Kafka too, beside the messages.

In Postgres alone, messages are acknowledged first, and then the step saves the cursor: a crash between
the two publishes a batch again, at least once.

In Kafka, messages and cursor are in one transaction, and Kafka's cursor is the truth. A reader of what
is committed sees every message once, whatever dies and whenever. The producer of a shard has a
`transactional.id` of its own: a relay that takes the shard over first ends what the former owner left
open and locks it out, then asks Postgres whether the shard is still its own, then reads the last step
back from Kafka. In that order a relay that was paused anywhere can only find itself locked out, or
publish from the true cursor.

    resumed ──enqueue──► open ──commit: intent in Postgres, end in Kafka──► ended ──save──► open …
                          └──anything else──► given up: the next owner, or producer, resumes

Postgres records the intent of each step before Kafka ends it. So its cursor is at most that one step
behind, and Kafka's counts if, and only if, it is the step from where Postgres stands. A database that has
forgotten an intent has lost its latest transactions: then Kafka's cursor speaks of ids that are given out
again, and to go on from it would lose messages, where Postgres' own at worst repeats some.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import structlog
from sqlalchemy import Connection

from innbox_process.health import Health
from outbox import reader
from outbox.reader import BlockedKey, Shard
from relay.config import RelayConfig
from relay.publishing.errors import KeepWaiting
from relay.publishing.kafka_cursors import PARTITION, Progress, Step, encode, identity, newest
from relay.publishing.producer import MessageProducer, changeable
from relay.publishing.transactional import TransactionalProducer

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Publisher:
    """A producer of messages, and the store that says from where to which place they took the shard.

    After any exception of either it is of no more use: another one begins anew at the kept cursor.
    """

    producer: MessageProducer
    cursors: "PostgresCursors | KafkaCursors"


@contextmanager
def publisher_for(
    connection: Connection, shard: Shard, config: RelayConfig, health: Health
) -> Iterator[Publisher]:
    """Make a publisher for one owner's time with a shard; `cursors.resume` comes next."""
    kafka, prefix, part = config.kafka, config.topic_prefix, shard_part(shard)
    if config.mode != "exactly-once":
        with MessageProducer(kafka, health, part=part, topic_prefix=prefix) as plain:
            yield Publisher(plain, PostgresCursors(shard, plain))
        return
    name, topic = identity(connection, shard), config.cursor_topic_name
    with TransactionalProducer(
        kafka, health, name, part=part, cursor_topic=topic, topic_prefix=prefix
    ) as producer:
        yield Publisher(producer, KafkaCursors(connection, shard, producer, config, name))


def shard_part(shard: Shard) -> str:
    """Name a shard as the health of the process does."""
    return f"shard {shard.id}"


class PostgresCursors:
    """Keeps nothing but what the step saves in Postgres."""

    def __init__(self, shard: Shard, producer: MessageProducer) -> None:
        self._shard = shard
        self._producer = producer

    def resume(self, keep_waiting: KeepWaiting) -> Shard:  # noqa: ARG002 - there is no wait
        return self._shard

    def commit(self, progress: Progress, keep_waiting: KeepWaiting) -> None:  # noqa: ARG002
        self._producer.flush(keep_waiting)


class KafkaCursors:
    """Keeps the cursor in the transaction of the messages that it has passed."""

    def __init__(
        self,
        connection: Connection,
        shard: Shard,
        producer: TransactionalProducer,
        config: RelayConfig,
        name: str,
    ) -> None:
        self._connection = connection
        self._shard = shard
        self._producer = producer
        self._kafka = changeable(config.kafka)
        self._topic = config.cursor_topic_name
        self._name = name
        self._lease_s = config.lease_s

    def resume(self, keep_waiting: KeepWaiting) -> Shard:
        """Lock out the former owner of the shard, and return it with the place to go on from.

        Raises `LeaseLost` if the shard is another's by now, and `Abandoned` once `keep_waiting` says no.
        """
        self._producer.begin_epoch(keep_waiting)
        # Not before: between an earlier look and the line above, somebody else may have begun.
        shard = reader.reload_shard(self._connection, self._shard, lease_s=self._lease_s)
        waiting = self._producer.warning_of(
            f"waiting for an open Kafka transaction on {self._topic}", keep_waiting
        )
        step = newest(self._kafka, self._topic, self._name, waiting)
        self._shard = shard
        # Fenced is who another owner has locked out, or a former one that woke up in vain.
        self._producer.on_fenced = partial(
            reader.renew, self._connection, shard, lease_s=self._lease_s
        )
        if step and step.since == shard.cursor:
            _log.info("the cursor in Kafka is the newer one", shard=shard.id)
            return self._saved(shard, step)
        if step and step.place.cursor.number > shard.cursor.number:
            _log.error(
                "Postgres is behind Kafka (commits lost in a failover?); some messages may be "
                "published twice",
                shard=shard.id,
            )
        return shard

    def commit(self, progress: Progress, keep_waiting: KeepWaiting) -> None:
        """End the transaction of the messages and of the cursor.

        Raises `PublishRefused`, `LeaseLost`, and `Abandoned` once `keep_waiting` says no.
        """
        self._producer.send_deferred(keep_waiting)
        step = self._intended(progress)  # while the brokers acknowledge
        self._producer.flush(keep_waiting)  # before the cursor: see `transactional`
        self._producer.send_cursor(self._name, encode(step), PARTITION, keep_waiting)
        self._producer.flush(keep_waiting)
        self._producer.end(keep_waiting)

    def _intended(self, progress: Progress) -> Step:
        """Record the intent of a step, and return the step with where it starts from."""
        since = reader.record_intent(
            self._connection, self._shard, progress.cursor.number, lease_s=self._lease_s
        )
        blocked = self._blocked_key(progress.key) if progress.key is not None else None
        return Step(since, progress, blocked.cursor if blocked else None)

    def _saved(self, shard: Shard, step: Step) -> Shard:
        """Bring the database's cursors to where a step that it has not heard of has taken them."""
        place, lease_s = step.place, self._lease_s
        if place.key is not None and place.key_cursor is not None:
            blocked = self._blocked_key(place.key)
            if blocked and blocked.cursor == step.key_since:
                moved = replace(blocked, cursor=place.key_cursor)
                return reader.save_key(
                    self._connection, shard, place.cursor, moved, lease_s=lease_s
                )
        return reader.save(self._connection, shard, place.cursor, lease_s=lease_s)

    def _blocked_key(self, key: str) -> BlockedKey | None:
        known = reader.blocked_keys(self._connection, self._shard.hashes)
        return next((each for each in known if each.key == key), None)
