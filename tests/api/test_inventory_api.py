"""Rooms, calendars and availability over real HTTP: who may change them, and what is said."""

from collections.abc import Iterator
from gzip import compress
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from api.identity.scopes import INVENTORY
from consumers.process import delete_old_keys_once
from domain.idempotency import ROOM_KEYS
from tests.support.api_client import ANOTHER, ME, Api, an_api, assert_problem, count, take

ALPINE = "/v1/rooms/7"
CHRISTMAS = {"from": "2026-12-24", "to": "2026-12-28"}  # from Thursday to Monday
STAY = {"checkIn": "2026-12-24", "checkOut": "2026-12-27"}


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    with an_api(database_url, page_size_max=3) as api:
        yield api


@pytest.fixture
def staff(api: Api) -> httpx.Client:
    return api.member(ME, INVENTORY)


@pytest.fixture
def guest(api: Api) -> httpx.Client:
    """Somebody whose token allows nothing in particular."""
    return api.member(ANOTHER, "read")


def put_nights(client: httpx.Client, room: str = ALPINE, **change: Any) -> httpx.Response:
    return client.put(f"{room}/nights", json={**CHRISTMAS, **change})


def nights(client: httpx.Client, room: str = ALPINE) -> list[dict[str, Any]]:
    """The calendar at Christmas."""
    found = client.get(f"{room}/calendar", params=CHRISTMAS)
    assert found.is_success, found.text
    return list(found.json()["nights"])


def test_a_calendar_shows_what_was_set(staff: httpx.Client, guest: httpx.Client) -> None:
    opened = put_nights(staff, capacity=4, name="Alpine", minStay=2)
    weekend = put_nights(staff, weekdays=["SAT", "SUN"], capacity=5, closedToArrival=True)

    assert opened.json() == {"roomId": 7, "nights": 4}
    assert weekend.json() == {"roomId": 7, "nights": 2}
    shown = guest.get(f"{ALPINE}/calendar", params=CHRISTMAS | {"to": "2027-06-01"}).json()
    assert (shown["roomId"], shown["name"]) == (7, "Alpine")
    assert [night["night"][-2:] for night in shown["nights"]] == ["24", "25", "26", "27"]
    assert [night["capacity"] for night in shown["nights"]] == [4, 4, 5, 5]
    assert shown["nights"][2] == {
        "night": "2026-12-26",
        "capacity": 5,
        "taken": 0,
        "free": 5,
        "closed": False,
        "minStay": 2,
        "closedToArrival": True,
        "closedToDeparture": False,
    }


def test_what_is_not_named_keeps_its_value(staff: httpx.Client) -> None:
    put_nights(staff, capacity=4, closed=True, minStay=3)

    put_nights(staff, closed=False)

    assert {(one["capacity"], one["closed"], one["minStay"]) for one in nights(staff)} == {
        (4, False, 3)
    }


def test_a_capacity_below_what_is_taken_is_refused_with_the_list_of_nights(
    staff: httpx.Client, engine: Engine
) -> None:
    put_nights(staff, capacity=4)
    take(engine, "2026-12-25", "2026-12-27")

    refused = put_nights(staff, capacity=1, closed=True)

    assert_problem(refused, 409, "capacity-below-taken")
    assert refused.json()["nights"] == [
        {"night": "2026-12-25", "capacity": 4, "taken": 2},
        {"night": "2026-12-27", "capacity": 4, "taken": 2},
    ]
    assert {(one["capacity"], one["closed"]) for one in nights(staff)} == {(4, False)}


def test_a_new_night_without_a_capacity_is_refused_with_its_date(
    staff: httpx.Client, engine: Engine
) -> None:
    put_nights(staff, capacity=4, to="2026-12-26")

    refused = put_nights(staff, minStay=2)
    elsewhere = put_nights(staff, "/v1/rooms/8", closed=True)

    assert_problem(refused, 422, "night-without-capacity")
    assert refused.json()["nights"] == [{"night": "2026-12-26"}, {"night": "2026-12-27"}]
    assert {one["minStay"] for one in nights(staff)} == {1}
    assert_problem(elsewhere, 422, "night-without-capacity")
    assert count(engine, "rooms.room") == 1, "a refusal makes no room"


BAD_CHANGES: list[tuple[dict[str, Any], str, str]] = [
    ({"to": "2026-12-24", "capacity": 1}, "invalid-range", ""),
    ({"to": "2036-12-24", "capacity": 1}, "invalid-range", ""),
    ({"to": "9999-12-31", "capacity": 1}, "invalid-range", ""),
    ({"weekdays": ["WED"], "capacity": 1}, "invalid-range", ""),
    ({"weekdays": [], "capacity": 1}, "invalid-request", "#/weekdays"),
    ({"weekdays": ["FUN"], "capacity": 1}, "invalid-request", "#/weekdays/0"),
    ({"capacity": -1}, "invalid-request", "#/capacity"),
    ({"capacity": 100_001}, "invalid-request", "#/capacity"),
    ({"minStay": 0}, "invalid-request", "#/minStay"),
    ({"minStay": 366}, "invalid-request", "#/minStay"),
    ({"closed": "true"}, "invalid-request", "#/closed"),
    ({"name": ""}, "invalid-request", "#/name"),
    ({"name": "   "}, "invalid-request", "#/name"),
    ({"name": "\u200b\u00a0\n"}, "invalid-request", "#/name"),
    ({"colour": "red"}, "invalid-request", "#/colour"),
]


def test_a_change_that_makes_no_sense_is_told_why(staff: httpx.Client, engine: Engine) -> None:
    for change, code, pointer in BAD_CHANGES:
        refused = put_nights(staff, **change)
        assert_problem(refused, 422, code)
        assert [fault["pointer"] for fault in refused.json().get("errors", [])] == (
            [pointer] if pointer else []
        ), refused.text
    assert count(engine, "rooms.room_night") == 0


def test_only_the_scope_inventory_may_change(guest: httpx.Client, engine: Engine) -> None:
    for refused in (
        guest.put(ALPINE, json={"name": "Mine"}),
        put_nights(guest, capacity=1),
        guest.post("/v1/inventory", content=b"", headers={"Content-Type": "text/csv"}),
    ):
        assert_problem(refused, 403, "scope-missing")
    assert count(engine, "rooms.room") == 0


def test_rooms_are_named_found_and_listed_by_their_ids(
    staff: httpx.Client, guest: httpx.Client
) -> None:
    for room in (9, 8, 7, 12, 2**40):
        assert staff.put(f"/v1/rooms/{room}", json={"name": f"Room {room}"}).is_success
    renamed = staff.put(ALPINE, json={"name": "Alpine"})

    assert renamed.json() == guest.get(ALPINE).json() == {"id": 7, "name": "Alpine"}
    assert_problem(guest.get("/v1/rooms/77"), 404, "not-found")
    assert_problem(guest.get("/v1/rooms/77/calendar", params=CHRISTMAS), 404, "not-found")
    first = guest.get("/v1/rooms").json()
    second = guest.get("/v1/rooms", params={"cursor": first["next"]}).json()
    assert [one["id"] for one in first["items"]] == [7, 8, 9]
    assert [one["id"] for one in second["items"]] == [12, 2**40]
    assert second["next"] is None


def test_a_name_is_something_that_can_be_seen(staff: httpx.Client) -> None:
    for blank in ("   ", "\t\r\n", "\u3000", "\ufeff\u2060"):
        refused = staff.put(ALPINE, json={"name": blank})
        assert_problem(refused, 422, "invalid-request")
    for name in ("Suite, lake", " 7", "東京", "★★★", "zwölf\u00a0Betten"):
        assert staff.put(ALPINE, json={"name": name}).json()["name"] == name


def test_an_encoded_body_is_not_taken_for_json(staff: httpx.Client) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    refused = staff.put(ALPINE, content=compress(b'{"name":"Alpine"}'), headers=headers)

    assert_problem(refused, 400, "malformed-body")


def test_only_an_id_that_no_room_can_have_is_not_there_to_be_looked_at(guest: httpx.Client) -> None:
    """One that nobody built yet has no night that could be had."""
    for impossible in (0, 2**63):
        found = guest.get(f"/v1/rooms/{impossible}/availability", params=STAY)
        assert_problem(found, 404, "not-found")
    unknown = guest.get("/v1/rooms/77/availability", params=STAY).json()
    assert {one["reason"] for one in unknown["failingNights"]} == {"UNKNOWN_ROOM"}


def test_a_key_makes_a_change_once_and_its_answer_is_repeated(
    staff: httpx.Client, engine: Engine
) -> None:
    """Somebody else's change in between is not undone by the repetition."""
    key = {"Idempotency-Key": '"christmas"'}
    body = {**CHRISTMAS, "capacity": 4}
    first = staff.put(f"{ALPINE}/nights", json=body, headers=key)
    put_nights(staff, capacity=9)
    again = staff.put(f"{ALPINE}/nights", json=body, headers={"Idempotency-Key": "christmas"})
    other = staff.put(ALPINE, json={"name": "Alpine"}, headers=key)

    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert {one["capacity"] for one in nights(staff)} == {9}
    assert_problem(other, 422, "idempotency-key-reused")
    assert count(engine, "rooms.idempotency_key") == 1
    assert count(engine, "reservations.idempotency_key") == 0


def test_each_change_of_a_room_is_repeated_under_its_key(
    staff: httpx.Client, engine: Engine
) -> None:
    """No answer is kept: what a change was asked for is what was answered."""
    for path, body in (
        (ALPINE, {"name": "Alpine"}),
        (f"{ALPINE}/nights", {**CHRISTMAS, "capacity": 4}),
    ):
        first = staff.put(path, json=body, headers={"Idempotency-Key": path})
        again = staff.put(path, json=body, headers={"Idempotency-Key": path})

        assert (again.status_code, again.json()) == (200, first.json())
        assert again.headers["Idempotency-Replayed"] == "true"
    assert count(engine, "rooms.idempotency_key") == 2


def test_a_refusal_is_judged_anew_under_its_key(staff: httpx.Client) -> None:
    key = {"Idempotency-Key": "open"}
    body = {**CHRISTMAS, "minStay": 2}
    assert_problem(
        staff.put(f"{ALPINE}/nights", json=body, headers=key), 422, "night-without-capacity"
    )
    put_nights(staff, capacity=1)

    assert staff.put(f"{ALPINE}/nights", json=body, headers=key).is_success


def test_availability_names_the_nights_in_the_way_and_why(
    staff: httpx.Client, guest: httpx.Client
) -> None:
    put_nights(staff, capacity=2, minStay=2)
    put_nights(staff, weekdays=["FRI"], closed=True)
    put_nights(staff, weekdays=["SUN"], closedToDeparture=True)
    put_nights(staff, "/v1/rooms/8", capacity=2)
    staff.put("/v1/rooms/9", json={"name": "Attic"})

    alpine = guest.get(f"{ALPINE}/availability", params=STAY).json()
    found = guest.get("/v1/availability", params=STAY).json()

    assert alpine == {
        "bookable": False,
        "minimumFree": 2,
        "failingNights": [
            {"night": "2026-12-25", "reason": "CLOSED"},
            {"night": "2026-12-27", "reason": "CLOSED_TO_DEPARTURE"},
        ],
    }
    assert found["items"][0] == {"roomId": 7, "name": None, **alpine}
    assert found["items"][1] == {
        "roomId": 8,
        "name": None,
        "bookable": True,
        "minimumFree": 2,
        "failingNights": [],
    }
    assert {night["reason"] for night in found["items"][2]["failingNights"]} == {"NIGHT_NOT_OPEN"}
    assert (found["items"][2]["name"], found["next"]) == ("Attic", None)


def test_a_search_goes_through_the_bookable_rooms_page_by_page(staff: httpx.Client) -> None:
    for room in range(1, 10):
        put_nights(staff, f"/v1/rooms/{room}", capacity=room % 2)

    found: list[int] = []
    cursor: str | None = None
    while True:
        asked: dict[str, Any] = {**STAY, "bookable": "true", "limit": 2} | (
            {"cursor": cursor} if cursor else {}
        )
        page = staff.get("/v1/availability", params=asked).json()
        found += [one["roomId"] for one in page["items"]]
        if (cursor := page["next"]) is None:
            break

    assert found == [1, 3, 5, 7, 9]


BAD_LOOKS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/availability", {"checkIn": "2026-12-24"}, "invalid-request"),
    ("/v1/availability", STAY | {"checkOut": "2026-12-24"}, "invalid-stay"),
    ("/v1/availability", STAY | {"checkOut": "2029-12-24"}, "invalid-stay"),
    ("/v1/availability", STAY | {"bookable": "perhaps"}, "invalid-request"),
    ("/v1/availability", STAY | {"limit": 4}, "invalid-request"),
    ("/v1/availability", STAY | {"cursor": "!"}, "invalid-request"),
    ("/v1/availability", STAY | {"beds": 2}, "invalid-request"),
    (f"{ALPINE}/calendar", {"from": "2026-12-24"}, "invalid-request"),
    (f"{ALPINE}/calendar", CHRISTMAS | {"to": "2026-12-24"}, "invalid-request"),
    (f"{ALPINE}/calendar", CHRISTMAS | {"to": "9999-12-31"}, "invalid-request"),
    ("/v1/rooms", {"limit": 0}, "invalid-request"),
]


def test_a_look_that_makes_no_sense_is_told_why(guest: httpx.Client) -> None:
    for url, asked, code in BAD_LOOKS:
        assert_problem(guest.get(url, params=asked), 422, code)


def test_the_last_days_of_the_calendar_can_be_looked_at(guest: httpx.Client) -> None:
    stay = {"checkIn": "2199-12-31", "checkOut": "2200-01-01"}

    assert guest.get("/v1/availability", params=stay).json() == {"items": [], "next": None}
    assert guest.get(f"{ALPINE}/availability", params=stay).json()["bookable"] is False


def test_closing_neither_cancels_nor_is_refused(staff: httpx.Client, engine: Engine) -> None:
    put_nights(staff, capacity=2)
    take(engine, "2026-12-24")

    assert put_nights(staff, closed=True).is_success
    assert [night["taken"] for night in nights(staff)] == [2, 0, 0, 0]


def test_old_keys_of_changes_are_forgotten(staff: httpx.Client, engine: Engine) -> None:
    staff.put(ALPINE, json={"name": "Alpine"}, headers={"Idempotency-Key": "old"})
    aged = "UPDATE rooms.idempotency_key SET created_at = now() - interval '8 days'"
    with engine.begin() as connection:
        connection.execute(text(aged))
    staff.put(ALPINE, json={"name": "Alpine"}, headers={"Idempotency-Key": "new"})

    assert delete_old_keys_once(engine, ROOM_KEYS, 7 * 86_400.0) == 1
    assert count(engine, "rooms.idempotency_key") == 1
