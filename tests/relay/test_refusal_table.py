"""Whose fault it is that a message was not taken, error by error."""

from itertools import permutations

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from outbox.reader import name_problem
from relay.publishing.errors import PublishRefused, RecordsLost, judged
from relay.publishing.faults import ROWS, Fault, explained, fault_of

pytestmark = pytest.mark.unit

TOPIC = "orders"
CURSORS = "outbox-cursor"
ERRORS = {
    name: code
    for name in dir(KafkaError)
    if name.isupper() and isinstance(code := getattr(KafkaError, name), int) and code
}
IMPOSSIBLE = [
    "",
    " ",
    ".",
    "..",
    "orders v1",
    "ü",
    "a/b",
    "a" * 250,
    "orders\n",
    "__consumer_offsets",
]


def test_each_error_of_the_client_has_one_row() -> None:
    """A client of another version may have more errors: each is somebody's fault."""
    rows = [name for names in ROWS.values() for name in names.split()]
    assert sorted(rows) == sorted(ERRORS)
    assert set(ROWS) == set(Fault)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_each_error_is_held_against_whom_the_table_says(name: str) -> None:
    """Against a message, and then it blocks its key, by these errors and no others."""
    error = KafkaError(ERRORS[name])
    found = judged([failed(error)])
    match fault_of(error):
        case Fault.MESSAGE:
            assert isinstance(found, PublishRefused)
            assert (found.topic, found.key) == (TOPIC, "7")
            # Of the relay's own record it is nobody's message's fault.
            assert code_of(judged([failed(error, CURSORS)], own_topic=CURSORS)) == error.code()
        case Fault.LOST:
            assert isinstance(found, RecordsLost)
            assert "outbox audit --mend" in found.args[0].str()
        case _:
            assert code_of(found) == error.code()
            assert TOPIC in str(found)


def test_what_an_operator_can_put_right_says_what_to_look_at() -> None:
    said = explained(KafkaError(KafkaError.INVALID_TIMESTAMP), TOPIC)
    for word in (
        TOPIC,
        "clock",
        "message.timestamp.before.max.ms",
        "message.timestamp.after.max.ms",
    ):
        assert word in said
    assert "Write" in explained(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), TOPIC)


def test_a_cause_is_told_from_what_follows_from_it_in_whatever_order_they_are_heard() -> None:
    """Lost records, then a message that is refused, then a reason to wait, then what only follows."""
    ranked = [
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError._PURGE_QUEUE,
    ]
    for first in range(len(ranked)):
        behind = ranked[first:]
        for codes in permutations(behind):
            found = judged([failed(KafkaError(code)) for code in codes])
            alone = judged([failed(KafkaError(behind[0]))])
            assert (type(found), str(found)) == (type(alone), str(alone))


def test_what_the_producer_says_counts_where_its_messages_say_less() -> None:
    purged = failed(KafkaError(KafkaError._PURGE_QUEUE))
    unauthorised = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    vague = KafkaException(KafkaError(KafkaError._INCONSISTENT))
    late = failed(KafkaError(KafkaError.INVALID_TIMESTAMP))
    assert code_of(judged([purged], unauthorised)) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert code_of(judged([late], vague)) == KafkaError.INVALID_TIMESTAMP
    too_large = KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    assert isinstance(judged([], too_large), PublishRefused)
    assert judged([]) is None


def test_a_request_behind_one_that_was_late_is_no_loss() -> None:
    """A transactional client says "out of order" of itself then; its messages were not refused for it."""
    said = KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER))
    fatal = KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, fatal=True))
    assert not isinstance(judged([failed(KafkaError(KafkaError._PURGE_QUEUE))], said), RecordsLost)
    assert not isinstance(judged([], said), RecordsLost)
    assert isinstance(judged([], fatal), RecordsLost)


def test_what_may_be_tried_again_still_may() -> None:
    """The steps of a transaction are repeated by the flags of the error."""
    again = KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer", retriable=True))
    found = judged([], again)
    assert isinstance(found, KafkaException)
    assert found.args[0].retriable()


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_message_for_a_topic_that_cannot_exist_is_refused_whatever_is_said_of_it(
    name: str,
) -> None:
    """By its own name in full: what the relay puts before it may make it a possible one."""
    error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    found = judged([failed(error, name)])
    assert isinstance(found, PublishRefused)
    assert repr(name) in found.reason
    assert isinstance(judged([failed(error, f"t-{TOPIC}")]), KafkaException)


@pytest.mark.parametrize("name", ["a", "a" * 249, "...", "Az09._-", "_private", "t-.."])
def test_names_that_a_topic_can_have_are_possible(name: str) -> None:
    assert name_problem(name) is None


def failed(error: KafkaError, topic: str = TOPIC) -> tuple[KafkaError, Message]:
    return error, Message(topic=topic, key=b"7")


def code_of(judgement: BaseException | None) -> int:
    assert isinstance(judgement, KafkaException)
    return int(judgement.args[0].code())
