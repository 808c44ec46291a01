"""The wire: what other services read and write, byte for byte."""

from dataclasses import replace
from datetime import date
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import messages
from domain.answers import MESSAGE_LENGTH_MAX, Answer, RequestKind, RoomRequest, RoomResult
from domain.messages import PoisonMessage, PoisonReason
from domain.stay import NIGHTS_MAX, Stay

pytestmark = pytest.mark.unit

CHRISTMAS = Stay(date(2026, 12, 24), date(2026, 12, 27))
MESSAGE = UUID("00000000-0000-0000-0000-00000000beef")
ASKED = b'{"reservationId":1,"roomId":7,"checkInDate":"2026-12-24","checkOutDate":"2026-12-27"}'

ids = st.integers(1, 2**63 - 1)
stays = st.builds(
    lambda start, length: Stay(start, date.fromordinal(start.toordinal() + length)),
    st.dates(date(2000, 1, 1), date(2198, 12, 31)),
    st.integers(1, NIGHTS_MAX),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_a_reserve_is_these_bytes() -> None:
    envelope = messages.room_reserve(1, 7, CHRISTMAS, MESSAGE)

    assert envelope == messages.Envelope(
        MESSAGE, "room-reserve", "7", "innbox.room.reserve.v1", "/innbox/reservations", ASKED
    )


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1) | st.just(2**63 - 1))
def test_a_reserve_whose_id_is_put_in_later_is_the_same(reservation_id: int, room_id: int) -> None:
    """One definition of the bytes, though one statement draws the id and appends."""
    later = messages.room_reserve_template(room_id, CHRISTMAS, MESSAGE)
    at_once = messages.room_reserve(reservation_id, room_id, CHRISTMAS, MESSAGE)

    assert replace(later.envelope, value=b"") == replace(at_once, value=b"")
    assert later.head + b"%d" % reservation_id + later.tail == at_once.value
    assert len(later.envelope.value) >= len(at_once.value)


def test_a_cancel_is_these_bytes() -> None:
    envelope = messages.room_cancel(1, 7, CHRISTMAS, MESSAGE)

    assert envelope == messages.Envelope(
        MESSAGE, "room-cancel", "7", "innbox.room.cancel.v1", "/innbox/reservations", ASKED
    )


@pytest.mark.parametrize(
    ("answer", "message", "value"),
    [
        (Answer.SUCCESS, "", b'{"reservationId":1,"status":"SUCCESS","message":""}'),
        (Answer.CANCEL, "", b'{"reservationId":1,"status":"CANCEL","message":""}'),
        (
            Answer.FAILURE,
            "SOLD_OUT: no room left",
            b'{"reservationId":1,"status":"FAILURE","message":"SOLD_OUT: no room left"}',
        ),
    ],
)
def test_a_result_is_these_bytes(answer: Answer, message: str, value: bytes) -> None:
    envelope = messages.reservation_result(1, answer, message, MESSAGE)

    assert envelope == messages.Envelope(
        MESSAGE,
        "reservation-result",
        "1",
        "innbox.reservation.result.v1",
        "/innbox/rooms",
        value,
    )


def test_every_message_has_an_id_of_its_own() -> None:
    made = {messages.room_reserve(1, 7, CHRISTMAS).message_id for _ in range(100)}

    assert len(made) == 100


@given(ids, ids, stays)
def test_requests_come_back_as_they_were_sent(reservation: int, room: int, stay: Stay) -> None:
    for make, kind in (
        (messages.room_reserve, RequestKind.RESERVE),
        (messages.room_cancel, RequestKind.CANCEL),
    ):
        sent = make(reservation, room, stay)
        received = messages.decode_room_request(sent.topic, sent.value, sent.message_id)

        assert received == RoomRequest(kind, reservation, room, stay, sent.message_id)


@given(ids, st.sampled_from(Answer), st.text(max_size=MESSAGE_LENGTH_MAX))
def test_results_come_back_as_they_were_sent(
    reservation: int, answer: Answer, message: str
) -> None:
    printable = message.replace("\0", "").encode(errors="ignore").decode()
    sent = messages.reservation_result(reservation, answer, printable)

    received = messages.decode_result(sent.value, sent.message_id)

    assert received == RoomResult(reservation, answer, printable, sent.message_id)


def test_unknown_fields_and_another_order_are_read_all_the_same() -> None:
    value = (
        b' {"guest":{"vip":[true]},"checkOutDate":"2026-12-27","roomId":7,'
        b'"checkInDate":"2026-12-24","reservationId":1} '
    )

    received = messages.decode_room_request(messages.ROOM_CANCEL, value, MESSAGE)

    assert received == RoomRequest(RequestKind.CANCEL, 1, 7, CHRISTMAS, MESSAGE)


def changed(old: bytes, new: bytes) -> bytes:
    assert old in ASKED
    return ASKED.replace(old, new)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, PoisonReason.NO_VALUE),
        (b"", PoisonReason.NOT_JSON),
        (b"reserve room 7, please", PoisonReason.NOT_JSON),
        (b"\xff\xfe", PoisonReason.NOT_JSON),
        (ASKED + b"!", PoisonReason.NOT_JSON),
        (ASKED[:-1] + b',"x":' + b"[" * 50_000, PoisonReason.NOT_JSON),
        (ASKED + b" " * messages.VALUE_BYTES_MAX, PoisonReason.TOO_LARGE),
        (b"null", PoisonReason.WRONG_SHAPE),
        (b"[]", PoisonReason.WRONG_SHAPE),
        (changed(b'"roomId":7,', b""), PoisonReason.WRONG_SHAPE),
        (changed(b'"roomId":7', b'"roomId":"7"'), PoisonReason.WRONG_SHAPE),
        (changed(b'"roomId":7', b'"roomId":true'), PoisonReason.WRONG_SHAPE),
        (changed(b'"roomId":7', b'"roomId":7.5'), PoisonReason.WRONG_SHAPE),
        (changed(b'"roomId":7', b'"roomId":0'), PoisonReason.WRONG_SHAPE),
        (changed(b'"roomId":7', b'"roomId":-7'), PoisonReason.WRONG_SHAPE),
        (changed(b'"roomId":7', b'"roomId":9223372036854775808'), PoisonReason.WRONG_SHAPE),
        (changed(b"2026-12-24", b"2026-02-30"), PoisonReason.WRONG_SHAPE),
        (changed(b"2026-12-24", b"24.12.2026"), PoisonReason.WRONG_SHAPE),
        (changed(b"2026-12-24", b"2026-12-27"), PoisonReason.IMPOSSIBLE_STAY),
        (changed(b"2026-12-24", b"2026-12-28"), PoisonReason.IMPOSSIBLE_STAY),
        (changed(b"2026-12-24", b"2020-12-24"), PoisonReason.IMPOSSIBLE_STAY),
        (changed(b"2026-12-24", b"0001-01-01"), PoisonReason.IMPOSSIBLE_STAY),
        (changed(b"2026-12-27", b"9999-12-31"), PoisonReason.IMPOSSIBLE_STAY),
    ],
)
def test_a_request_that_makes_no_sense_is_poison(value: bytes | None, reason: PoisonReason) -> None:
    with pytest.raises(PoisonMessage) as poison:
        messages.decode_room_request(messages.ROOM_RESERVE, value, MESSAGE)

    assert poison.value.reason.startswith(f"{reason}: ")


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b'{"reservationId":1,"status":"SUCCESS"}',
        b'{"reservationId":1,"status":"MAYBE","message":""}',
        b'{"reservationId":1,"status":"success","message":""}',
        b'{"reservationId":1,"status":"FAILURE","message":null}',
        b'{"reservationId":1,"status":"FAILURE","message":"SOLD\\u0000OUT"}',
        b'{"reservationId":1,"status":"FAILURE","message":"\\ud800"}',
        b'{"reservationId":1,"status":"FAILURE","message":"\xff"}',
        b'{"reservationId":1,"status":"FAILURE","message":"' + b"x" * 1_001 + b'"}',
    ],
)
def test_a_result_that_makes_no_sense_is_poison(value: bytes | None) -> None:
    with pytest.raises(PoisonMessage):
        messages.decode_result(value, MESSAGE)


def test_the_reason_of_a_poison_message_fits_into_a_text_column() -> None:
    """It may quote the sender, who may have sent a NUL or a novel."""
    status = "\\u0000" + "x" * 5_000
    value = f'{{"reservationId":1,"status":"{status}","message":""}}'.encode()

    with pytest.raises(PoisonMessage) as poison:
        messages.decode_result(value, MESSAGE)

    assert "\0" not in poison.value.reason
    assert len(poison.value.reason) <= 300


@given(st.binary() | json_values.map(messages._ENCODER.encode))
def test_garbage_is_poison_and_never_another_error(value: bytes) -> None:
    with pytest.raises(PoisonMessage):
        messages.decode_room_request(messages.ROOM_RESERVE, value, MESSAGE)
    with pytest.raises(PoisonMessage):
        messages.decode_result(value, MESSAGE)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "reservationId": json_values | ids,
            "roomId": json_values | ids,
            "checkInDate": json_values | st.dates().map(str),
            "checkOutDate": json_values | st.dates().map(str),
        },
    )
)
def test_the_right_fields_with_wrong_contents_are_poison_or_a_request(
    fields: dict[str, object],
) -> None:
    try:
        request = messages.decode_room_request(
            messages.ROOM_RESERVE, messages._ENCODER.encode(fields), MESSAGE
        )
    except PoisonMessage:
        return

    assert request.stay.check_in.isoformat() == fields["checkInDate"]
    assert request.room_id == fields["roomId"]


@given(stays)
def test_a_stay_covers_its_nights_but_not_the_day_of_leaving(stay: Stay) -> None:
    assert stay.nights[0] == stay.check_in
    assert stay.check_out not in stay.nights
    assert len(stay.nights) == stay.length == len(set(stay.nights))
