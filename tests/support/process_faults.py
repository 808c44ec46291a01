"""Relay processes that end, or pause, at a point that a test chose, by its NAME.

The settings come through the environment as JSON. Nothing in the relay knows of this.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from threading import get_ident
from typing import Any

from confluent_kafka import KafkaException

from domain.messages import TOPICS
from innbox_process.logs import configure_logs
from ops.relay_config import relay_config
from outbox import reader
from outbox.admin import PartitionChanges
from relay import process, step
from relay.publishing import cursor_store
from relay.publishing.producer import MessageProducer
from relay.publishing.transactional import TransactionalProducer
from runtime.settings import Settings

SETTINGS = "RELAY_TEST_SETTINGS"
# Readings are of 1, 2, 4, 8 … messages after a claim: enough of them are recorded before the fault,
# and enough are in hand.
FATAL_READING = 5
MESSAGES_IN_HAND = 2 ** (FATAL_READING - 1)
# Of a blocked key, the same.
FATAL_RETRY = 2
FATAL_VALUE = b"fatal"


def relays() -> None:
    """Change nothing."""


def dies_between_publishing_and_saving() -> None:
    reader.save = _signalling(signal.SIGKILL, reader.save)


def dies_while_publishing() -> None:
    MessageProducer.flush = _signalling(signal.SIGKILL, MessageProducer.flush)  # type: ignore[method-assign]


def dies_between_publishing_and_saving_a_retry() -> None:
    reader.save_key = _signalling(signal.SIGKILL, reader.save_key, at=FATAL_RETRY)


def dies_of_a_message() -> None:
    """Of any whose value says so. Once in a row is enough, since restarts take their time."""
    step.CRASHES_MAX = 1
    enqueue = MessageProducer.enqueue

    def enqueue_or_die(
        publisher: MessageProducer, rows: Sequence[tuple[Any, ...]], *rest: Any
    ) -> None:
        if any(bytes(value) == FATAL_VALUE for _, _, _, value, *_ in rows):
            _signal(signal.SIGKILL)
        enqueue(publisher, rows, *rest)

    MessageProducer.enqueue = enqueue_or_die  # type: ignore[method-assign,assignment]


def pauses_between_publishing_and_saving() -> None:
    _keep_no_house()
    reader.save = _signalling(signal.SIGSTOP, reader.save)


# The steps of `relay.publishing.cursor_store`, in their order; `init_transactions` is patient first.


def dies_before_it_locks_others_out() -> None:
    _patch("_patiently", _signalling(signal.SIGKILL, TransactionalProducer._patiently, at=1))


def dies_before_it_reads_the_cursor() -> None:
    cursor_store.newest = _signalling(signal.SIGKILL, cursor_store.newest, at=1)  # type: ignore[attr-defined]


def dies_with_a_part_of_a_reading_sent() -> None:
    send = TransactionalProducer._send

    def send_a_part(publisher: TransactionalProducer, rows: Any, keep_waiting: Any) -> None:
        if len(rows) < MESSAGES_IN_HAND:
            return send(publisher, rows, keep_waiting)
        send(publisher, rows[: len(rows) // 2], keep_waiting)
        publisher._producer.flush()
        return _signal(signal.SIGKILL)

    _patch("_send", send_a_part)


def dies_after_it_announced() -> None:
    reader.record_intent = _signalling(signal.SIGKILL, reader.record_intent, after=True)


def dies_with_the_cursor_sent() -> None:
    _patch(
        "send_cursor",
        _signalling(signal.SIGKILL, _sent(TransactionalProducer.send_cursor), after=True),
    )


def dies_while_the_transaction_ends() -> None:
    send_cursor, calls = TransactionalProducer.send_cursor, count(1)

    def send_cursor_and_begin_the_end(publisher: TransactionalProducer, *arguments: Any) -> None:
        send_cursor(publisher, *arguments)
        if next(calls) == FATAL_READING:
            publisher._producer.flush()
            with suppress(KafkaException):  # it has hardly ended in so short a time
                publisher._producer.commit_transaction(0.002)
            _signal(signal.SIGKILL)

    _patch("send_cursor", send_cursor_and_begin_the_end)


def dies_after_saving() -> None:
    reader.save = _signalling(signal.SIGKILL, reader.save, after=True)


def pauses_before_it_locks_others_out() -> None:
    _keep_no_house()
    _patch("_patiently", _signalling(signal.SIGSTOP, TransactionalProducer._patiently, at=1))


def pauses_with_the_cursor_sent() -> None:
    _keep_no_house()
    _patch(
        "send_cursor",
        _signalling(signal.SIGSTOP, _sent(TransactionalProducer.send_cursor), after=True),
    )


CHILDREN = {
    child.__name__: child
    for child in (
        relays,
        dies_between_publishing_and_saving,
        dies_while_publishing,
        dies_between_publishing_and_saving_a_retry,
        dies_of_a_message,
        pauses_between_publishing_and_saving,
        dies_before_it_locks_others_out,
        dies_before_it_reads_the_cursor,
        dies_with_a_part_of_a_reading_sent,
        dies_after_it_announced,
        dies_with_the_cursor_sent,
        dies_while_the_transaction_ends,
        dies_after_saving,
        pauses_before_it_locks_others_out,
        pauses_with_the_cursor_sent,
    )
}


def _keep_no_house() -> None:
    """A pause in the midst of housekeeping would keep its locks, too, and that is another story."""
    process.maintain_partitions_once = lambda *_: PartitionChanges([], [])  # type: ignore[attr-defined]


def _patch(name: str, step: Callable[..., Any]) -> None:
    setattr(TransactionalProducer, name, step)


def _sent(step: Callable[..., Any]) -> Callable[..., Any]:
    """The publisher's step, after which all that it has in hand is on the brokers."""

    def sent(publisher: TransactionalProducer, *arguments: Any) -> None:
        step(publisher, *arguments)
        publisher._producer.flush()

    return sent


def _signalling(
    number: signal.Signals,
    step: Callable[..., Any],
    *,
    at: int = FATAL_READING,
    after: bool = False,
) -> Callable[..., Any]:
    """The step, which sends this process a signal before, or after, it is taken for the fatal time."""
    calls = 0

    def signalling(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            _signal(number)
        answer = step(*arguments, **options)
        if calls == at and after:
            _signal(number)
        return answer

    return signalling


def _signal(number: signal.Signals) -> None:
    # To this thread, or it might go on for a while: another one may be given the signal.
    signal.pthread_kill(get_ident(), number)


def main(arguments: Sequence[str]) -> None:
    (name,) = arguments
    settings = Settings.model_validate_json(os.environ[SETTINGS])
    configure_logs(settings, name)
    CHILDREN[name]()
    process.run(replace(relay_config(settings), topics=TOPICS))


if __name__ == "__main__":
    main(sys.argv[1:])
