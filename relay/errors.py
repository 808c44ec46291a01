"""Why publishing ended before its end.

Refused     a message cannot be published as it is; its key waits for an operator
Abandoned   the caller gave up waiting: a stop was asked for
"""

from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException, Message

# What is said of a message itself. Whatever else goes wrong (a topic that is missing, a right that was
# not granted, a broker that is away) can be put right without it, and is waited for.
_REFUSALS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError._BAD_MSG,  # noqa: SLF001 - so it is named in public, too
        KafkaError._INVALID_ARG,  # noqa: SLF001
    }
)


class Refused(Exception):
    """The brokers, or the client on their behalf, will not take a message as it is."""

    def __init__(self, topic: str, key: str, reason: str) -> None:
        super().__init__(f"a message of key {key!r} for {topic!r} was refused: {reason}")
        self.topic = topic
        self.key = key
        self.reason = reason


class Abandoned(Exception):
    """The caller gave up waiting; what was not acknowledged will be published again."""


def refused(topic: str, key: str, error: BaseException) -> BaseException:
    """Tell a message that cannot be sent as it is from a producer that cannot send."""
    if not isinstance(error, KafkaException):
        return Refused(topic, key, str(error))
    cause: KafkaError = error.args[0]
    return Refused(topic, key, str(cause.str())) if cause.code() in _REFUSALS else error


def judged(failures: Iterable[tuple[KafkaError, Message]]) -> BaseException | None:
    """Tell a message that is refused from those that something else befell; None if there are none.

    If none is refused the first one counts: those behind it fail because it did.
    """
    first = None
    for error, message in failures:
        key = (message.key() or b"").decode(errors="replace")
        judgement = refused(message.topic() or "?", key, KafkaException(error))
        if isinstance(judgement, Refused):
            return judgement
        first = first or judgement
    return first
