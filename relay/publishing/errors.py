"""Why publishing ended before its end.

PublishRefused        a message cannot be published as it is; its key waits for an operator
RecordsLost    the brokers have lost records that they had acknowledged; a new producer goes on
KafkaException something else is wrong, which is waited for: `relay.publishing.faults` has the table
Abandoned      the caller gave up waiting: a stop was asked for
"""

from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, KafkaException, Message

from outbox.reader import name_problem
from relay.publishing.faults import Fault, explained, fault_of

# Asked about twice a second by whatever waits: whether to go on. It may raise what ends the wait.
KeepWaiting = Callable[[], bool]


class PublishRefused(Exception):
    """The brokers, or the client on their behalf, will not take a message as it is."""

    def __init__(self, topic: str, key: str, reason: str) -> None:
        super().__init__(f"a message of key {key!r} for {topic!r} was refused: {reason}")
        self.topic = topic
        self.key = key
        self.reason = reason


class RecordsLost(KafkaException):
    """The brokers expect an earlier record than the one after the last that they acknowledged."""


class Abandoned(Exception):
    """The caller gave up waiting; what was not acknowledged will be published again."""


def refused(topic: str, key: str, error: BaseException) -> BaseException:
    """Tell a message that cannot be sent as it is from what is no fault of the message.

    The topic is named as the brokers know it. A name that no topic can have is refused whatever the error
    is: some ways of sending say of it only that a right is missing.
    """
    if not isinstance(error, KafkaException):
        return PublishRefused(topic, key, str(error))
    if problem := name_problem(topic):
        return PublishRefused(topic, key, f"topic {topic!r}: {problem}")
    cause: KafkaError = error.args[0]
    if fault_of(cause) is Fault.MESSAGE:
        return PublishRefused(topic, key, str(cause.str()))
    return _waited_for(cause, topic)


def judged(
    failures: Iterable[tuple[KafkaError, Message]],
    cause: BaseException | None = None,
    *,
    own_topic: str | None = None,
) -> BaseException | None:
    """Tell what is to be raised, of what befell the messages and what the producer itself says; or None.

    Lost records before all else, then a message that is refused, then what names a cause: most messages
    fail because another one, or the producer, did. What is refused of `own_topic` is no message's fault.
    """
    found = [
        _befell(error, message, own_topic)
        for error, message in {(one.code(), of.topic()): (one, of) for one, of in failures}.values()
    ]
    if isinstance(cause, KafkaException):
        # The messages know better which of them is at fault, if they have been heard of.
        found.append(_waited_for(cause.args[0]) if found else _ended(cause))
    return min(found, key=_rank, default=None)


def _ended(cause: KafkaException) -> BaseException:
    error: KafkaError = cause.args[0]
    if fault_of(error) is Fault.MESSAGE:
        return PublishRefused("?", "?", str(error.str()))
    # Without being fatal it is a request that came after one that was merely late.
    if fault_of(error) is Fault.LOST and error.fatal():
        return RecordsLost(*_waited_for(error).args)
    return _waited_for(error)


def _befell(error: KafkaError, message: Message, own_topic: str | None) -> BaseException:
    topic = message.topic() or ""
    if topic == own_topic:
        return _waited_for(error, topic)
    key = (message.key() or b"").decode(errors="replace")
    judgement = refused(topic, key, KafkaException(error))
    if isinstance(judgement, KafkaException) and fault_of(error) is Fault.LOST:
        return RecordsLost(*judgement.args)
    return judgement


def _waited_for(cause: KafkaError, topic: str | None = None) -> KafkaException:
    return KafkaException(
        KafkaError(
            cause.code(),
            explained(cause, topic),
            fatal=cause.fatal(),
            retriable=cause.retriable(),
            txn_requires_abort=cause.txn_requires_abort(),
        )
    )


def _rank(judgement: BaseException) -> int:
    match judgement:
        case RecordsLost():
            return 0
        case PublishRefused():
            return 1
        case KafkaException() if fault_of(judgement.args[0]) is not Fault.FOLLOWING:
            return 2
        case _:
            return 3
