"""Looking at reservations: lists and their cursors, entity tags, and how each came about."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Engine, text

from api.identity.scopes import READ, STAFF, WRITE
from api.requests import pages
from api.requests.conditions import is_known, is_meant
from consumers.redrive import redrive_once
from consumers.results import ResultsHandler
from domain.answers import Answer
from domain.reservations.reading import Filter
from tests.support.api_client import (
    ANOTHER,
    ME,
    RESERVATIONS,
    Api,
    a_stay,
    assert_problem,
    put_into,
    today,
)
from tests.support.saga import a_record, a_result, apply_patiently

DESK = 99
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.fixture
def staff(api: Api) -> httpx.Client:
    return api.member(DESK, READ, WRITE, STAFF)


def a_reservation(client: httpx.Client, **changes: object) -> int:
    return int(client.post(RESERVATIONS, json=a_stay(**changes)).raise_for_status().json()["id"])


def listed(client: httpx.Client, **query: Any) -> list[int]:
    """The ids of all pages, each page read by the cursor of the one before."""
    found, following = [], None
    while True:
        response = client.get(
            RESERVATIONS, params=query | ({"cursor": following} if following else {})
        )
        page = response.raise_for_status().json()
        found += [item["id"] for item in page["items"]]
        if (following := page["next"]) is None:
            return found


def on(days: int) -> str:
    return str((today() + timedelta(days=days)).isoformat())


def test_a_list_is_narrowed_down_by_each_filter(me: httpx.Client, engine: Engine) -> None:
    """Of a range of check-ins the last day is not part, as of a stay."""
    soon = a_reservation(me, roomId=1, checkInDate=on(10), checkOutDate=on(11))
    later = a_reservation(me, roomId=2, checkInDate=on(20), checkOutDate=on(21))
    latest = a_reservation(me, roomId=2, checkInDate=on(30), checkOutDate=on(31))
    put_into(engine, later, "CONFIRMED")
    put_into(engine, latest, "CANCELLED")

    assert listed(me) == [latest, later, soon]
    assert listed(me, status="PENDING") == [soon]
    assert listed(me, status=["PENDING", "CANCELLED"]) == [latest, soon]
    assert listed(me, roomId=2) == [latest, later]
    assert listed(me, checkInFrom=on(20)) == [latest, later]
    assert listed(me, checkInTo=on(20)) == [soon]
    assert listed(me, checkInFrom=on(10), checkInTo=on(30), roomId=2) == [later]
    assert listed(me, roomId=3) == []


def test_pages_of_a_filtered_list_neither_repeat_nor_miss(me: httpx.Client) -> None:
    """However many come in between; the header leads to the same next page as the cursor."""
    ids = [a_reservation(me, roomId=number % 2 + 1) for number in range(10)]
    first = me.get(RESERVATIONS, params={"roomId": 1, "limit": 2})
    a_reservation(me, roomId=1)
    by_link = me.get(first.links["next"]["url"])
    by_cursor = me.get(
        RESERVATIONS, params={"roomId": 1, "limit": 2, "cursor": first.json()["next"]}
    )

    assert by_link.json() == by_cursor.json()
    seen = [item["id"] for page in (first, by_link) for item in page.json()["items"]]
    assert seen == ids[::2][::-1][:4]


def test_a_cursor_is_good_for_its_own_list_alone(me: httpx.Client, staff: httpx.Client) -> None:
    """With other filters it would begin anywhere; so too if it was tampered with."""
    for _ in range(2):
        a_reservation(me)
    cursor = me.get(RESERVATIONS, params={"limit": 1}).json()["next"]
    tampered = ("A" if cursor[5] != "A" else "B").join([cursor[:5], cursor[6:]])

    for client, query in (
        (me, {"cursor": cursor, "roomId": 1}),
        (me, {"cursor": cursor, "status": "PENDING"}),
        (me, {"cursor": tampered}),
        (me, {"cursor": cursor[:-4]}),
        (me, {"cursor": ""}),
        (me, {"cursor": "ÿ"}),
        *((me, {"cursor": pages.cursor(id_, Filter(ME))}) for id_ in (0, 2**63, 2**64 - 1)),
        (staff, {"cursor": cursor}),
    ):
        response = client.get(RESERVATIONS, params=query)
        assert_problem(response, 422, "invalid-request")
        assert response.json()["errors"][0]["parameter"] == "cursor"
    assert me.get(RESERVATIONS, params={"cursor": cursor, "limit": 5}).status_code == 200


def test_the_staff_see_everybodys_or_one_members(
    api: Api, me: httpx.Client, staff: httpx.Client
) -> None:
    mine, theirs = a_reservation(me), a_reservation(api.member(ANOTHER))

    assert listed(staff) == [theirs, mine]
    assert listed(staff, memberId=ME) == [mine]
    assert listed(me, memberId=ME) == [mine]
    assert staff.get(f"{RESERVATIONS}/{mine}").json()["memberId"] == ME
    assert len(staff.get(f"{RESERVATIONS}/{mine}/history").json()["items"]) == 1
    assert_problem(me.get(RESERVATIONS, params={"memberId": ANOTHER}), 403, "scope-missing")


def test_a_token_that_may_not_read_reads_nothing(api: Api, me: httpx.Client) -> None:
    location = f"{RESERVATIONS}/{a_reservation(me)}"
    writer = api.member(ME, WRITE)

    for path in (RESERVATIONS, location, f"{location}/history", f"{location}/events"):
        assert_problem(writer.get(path), 403, "scope-missing")


def test_a_parameter_that_is_unknown_or_given_twice_is_refused(me: httpx.Client) -> None:
    """Whoever misspells a filter would otherwise be given everything."""
    for path, query, parameter in (
        (RESERVATIONS, "?room=1", "room"),
        (RESERVATIONS, "?roomId=1&roomId=2", "roomId"),
        (f"{RESERVATIONS}/1", "?expand=all", "expand"),
        ("/v1/rooms/1/availability", "?checkIn=2027-01-01&checkOut=2027-01-02&x=", "x"),
    ):
        response = me.get(path + query)
        assert_problem(response, 422, "invalid-request")
        assert response.json()["errors"][0]["parameter"] == parameter


def test_what_the_caller_has_already_is_not_sent_again(me: httpx.Client, engine: Engine) -> None:
    location = f"{RESERVATIONS}/{a_reservation(me)}"
    first = me.get(location)
    again = me.get(location, headers={"If-None-Match": first.headers["ETag"]})
    with engine.begin() as connection:
        connection.execute(text("UPDATE reservations.reservation SET version = 2"))
    changed = me.get(location, headers={"If-None-Match": first.headers["ETag"]})

    assert first.headers["ETag"] == '"1"'
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", '"1"')
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')


@pytest.mark.unit
@pytest.mark.parametrize(
    ("header", "known", "meant"),
    [
        (None, False, True),
        ('"3"', True, True),
        ('W/"3"', True, False),
        ('"1", "2" ,W/"3"', True, False),
        ('"1","3"', True, True),
        ("*", True, True),
        ('"1"', False, False),
        ('"33"', False, False),
        ("3", False, False),
        ('"3', False, False),
        ("", False, False),
        (",,", False, False),
    ],
)
def test_tags_are_compared_as_the_standard_says(
    header: str | None,
    known: bool,  # noqa: FBT001 - a column of the table
    meant: bool,  # noqa: FBT001
) -> None:
    """Weakly to save sending it again, strongly before a change."""
    assert (is_known(header, 3), is_meant(header, 3)) == (known, meant)


def test_a_rejection_says_why_to_people_and_to_programs(me: httpx.Client, engine: Engine) -> None:
    coded, bare, foreign, pending = (a_reservation(me) for _ in range(4))
    put_into(engine, coded, "REJECTED", "SOLD_OUT: no room left on 2027-01-01")
    put_into(engine, bare, "REJECTED", "NO_REASON_GIVEN")
    put_into(engine, foreign, "REJECTED", "we are closed")
    put_into(engine, pending, "PENDING", "REDRIVEN")

    def why(id_: int) -> tuple[str | None, str | None]:
        found = me.get(f"{RESERVATIONS}/{id_}").json()
        return found["reason"], found["reasonCode"]

    assert why(coded) == ("SOLD_OUT: no room left on 2027-01-01", "SOLD_OUT")
    assert why(bare) == ("NO_REASON_GIVEN", "NO_REASON_GIVEN")
    assert why(foreign) == ("we are closed", None)
    assert why(pending) == (None, None)


def test_a_history_tells_of_each_transition_when_by_whom_and_why(
    me: httpx.Client, staff: httpx.Client, engine: Engine, results: ResultsHandler
) -> None:
    """With the message that goes with it, and the trace; those of the rooms come with their answer."""
    headers = {"traceparent": TRACEPARENT}
    id_ = me.post(RESERVATIONS, json=a_stay(), headers=headers).json()["id"]
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE reservations.reservation SET updated_at = now() - interval '1 h'")
        )
    assert redrive_once(engine, older_than_s=60) == 1
    answer = a_record(a_result(id_, Answer.SUCCESS, message=5), traceparent=TRACEPARENT)
    apply_patiently(engine, results, [answer])
    staff.post(f"{RESERVATIONS}/{id_}/cancellation")
    last = a_record(a_result(id_, Answer.CANCEL), traceparent="of no known form")
    apply_patiently(engine, results, [last])

    items = me.get(f"{RESERVATIONS}/{id_}/history").json()["items"]
    assert [(item["version"], item["status"], item["by"], item["reason"]) for item in items] == [
        (1, "PENDING", f"member:{ME}", None),
        (2, "PENDING", "innbox", "REDRIVEN"),
        (3, "CONFIRMED", "rooms", None),
        (4, "CANCELLING", f"staff:{DESK}", None),
        (5, "CANCELLED", "rooms", None),
    ]
    assert [item["at"] for item in items] == sorted(item["at"] for item in items)
    assert items[2]["messageId"] == str(UUID(int=5))
    assert [items[0]["traceId"], items[2]["traceId"], items[4]["traceId"]] == [
        TRACE_ID,
        TRACE_ID,
        None,
    ]
    with engine.connect() as connection:
        asked = connection.execute(
            text(
                "SELECT message_id::text, headers->>'traceparent' FROM outbox.message ORDER BY position"
            )
        ).all()
    requests = [items[0], items[1], items[3]]
    assert [item["messageId"] for item in requests] == [message_id for message_id, _ in asked]
    assert [item["traceId"] for item in requests] == [trace.split("-")[1] for _, trace in asked]


def test_rows_that_are_older_than_the_columns_do_not_tell(me: httpx.Client, engine: Engine) -> None:
    id_ = a_reservation(me)
    with engine.begin() as connection:
        connection.execute(text("UPDATE reservations.transition SET actor = NULL, trace_id = NULL"))

    [item] = me.get(f"{RESERVATIONS}/{id_}/history").json()["items"]
    assert (item["by"], item["traceId"]) == (None, None)
