"""Looking in all rooms at once: it says what each room says, and costs a range of the index a room."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from domain.rooms import calendar
from domain.rooms.change import Change
from domain.rooms.search import SEARCH, search
from domain.stay import Stay

EVE = date(2026, 12, 24)
CHRISTMAS = Stay(EVE, date(2026, 12, 27))
ALPINE, SEASIDE, ATTIC = 7, 8, 9
ROOMS, NIGHTS = 200, 100

FILL_ROOMS = text(
    "INSERT INTO rooms.room (id, name) SELECT n, 'Room ' || n FROM generate_series(1, :rooms) n"
)
FILL = text("""
    INSERT INTO rooms.room_night (room_id, night, capacity, capacity_peak, taken)
    SELECT room, CAST(:opens AS date) + day, 5, 5, CASE WHEN room % 2 = 0 THEN 5 ELSE 1 END
    FROM generate_series(1, :rooms) AS room, generate_series(0, :nights - 1) AS day
""")

changes = st.lists(
    st.builds(
        lambda room_id, first, length, capacity, *rules: Change(
            room_id,
            tuple(EVE + timedelta(days=first + day) for day in range(length)),
            capacity,
            *rules,
        ),
        st.sampled_from([ALPINE, SEASIDE, ATTIC]),
        st.integers(0, 7),
        st.integers(1, 6),
        st.integers(0, 2),
        st.booleans(),
        st.integers(1, 4),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
)
stays = st.builds(
    lambda first, length: Stay(EVE + timedelta(days=first), EVE + timedelta(days=first + length)),
    st.integers(0, 7),
    st.integers(1, 5),
)


@given(asked=changes, stay=stays, held=st.sets(st.integers(0, 12)))
@examples(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_search_says_of_each_room_what_its_own_availability_says(
    engine: Engine, asked: list[Change], stay: Stay, held: set[int]
) -> None:
    """Nights, reasons, order and the free rooms; the same rules in SQL and in Python."""
    with engine.connect() as connection:
        connection.execute(
            text("INSERT INTO rooms.room (id) VALUES (7), (8), (9) ON CONFLICT DO NOTHING")
        )
        connection.execute(text("DELETE FROM rooms.room_night"))
        if asked:
            calendar.change_nights(connection, asked)
        sold = "UPDATE rooms.room_night SET taken = capacity WHERE night = ANY (:nights)"
        connection.execute(text(sold), {"nights": [EVE + timedelta(days=day) for day in held]})

        found = search(connection, stay, after=0, limit=10)
        expected = [calendar.availability(connection, one.room_id, stay) for one in found]
        bookable = search(connection, stay, after=0, limit=10, bookable=True)
        others = search(connection, stay, after=0, limit=10, bookable=False)

        assert [one.room_id for one in found] == [ALPINE, SEASIDE, ATTIC]
        assert [one.seen for one in found] == expected
        assert bookable == [one for one in found if one.seen.bookable]
        assert others == [one for one in found if not one.seen.bookable]
        connection.rollback()


def test_a_page_goes_on_after_the_room_that_ended_the_last(filled: Engine) -> None:
    with filled.connect() as connection:
        first = search(connection, CHRISTMAS, after=0, limit=3, bookable=True)
        second = search(connection, CHRISTMAS, after=first[-1].room_id, limit=3, bookable=True)

    assert [one.room_id for one in (*first, *second)] == [1, 3, 5, 7, 9, 11]


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """Every second room is sold out; nobody has lain the nights of a room together."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(FILL_ROOMS, {"rooms": ROOMS})
        connection.execute(FILL, {"rooms": ROOMS, "nights": NIGHTS, "opens": EVE})
        connection.execute(text("VACUUM ANALYZE rooms.room, rooms.room_night"))
    return engine


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("length", [1, 7, 30])
def test_a_search_reads_the_nights_of_the_stay_alone_and_stops_when_the_page_is_full(
    filled: Engine, length: int, mode: str
) -> None:
    with filled.connect() as connection:
        connection.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
        plan = executed_plan(connection, length, limit=11)

    nights = [node for node in nodes(plan) if node.get("Relation Name") == "room_night"]
    rooms = [node for node in nodes(plan) if node.get("Relation Name") == "room"]
    assert plan["Actual Rows"] == 11
    assert {node["Node Type"] for node in nights} <= {"Index Scan", "Bitmap Heap Scan"}
    assert {node["Actual Loops"] for node in nights} == {21}, (
        "a room after the other, to the eleventh"
    )
    assert [node["Actual Rows"] for node in nights] == [length + 1]
    assert {node["Node Type"] for node in rooms} == {"Index Scan"}
    assert not any(node["Node Type"] == "Seq Scan" for node in nodes(plan))


def executed_plan(connection: Connection, length: int, limit: int) -> dict[str, Any]:
    """Explain the very statement, prepared, so that its plan may be a generic one."""
    types = "date, date, integer, bigint, boolean, integer"
    names = ["check_in", "check_out", "length", "after", "bookable", "limit"]
    statement = str(SEARCH)
    for number, name in enumerate(names, start=1):
        statement = statement.replace(f":{name}", f"${number}")
    connection.exec_driver_sql(f"PREPARE look ({types}) AS {statement}")
    values = f"'{EVE}', '{EVE + timedelta(days=length)}', {length}, 0, true, {limit}"
    explained = connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE look ({values})"
    ).scalar_one()
    connection.exec_driver_sql("DEALLOCATE look")
    plan: dict[str, Any] = (explained if isinstance(explained, list) else json.loads(explained))[0]
    return plan["Plan"]  # type: ignore[no-any-return]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
