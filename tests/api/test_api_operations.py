"""What is open: seen by those who operate, of everybody's, and of nothing else."""

from sqlalchemy import Engine, text

from api.identity.scopes import OPERATE
from outbox import reader
from tests.support.api_client import ANOTHER, ME, Api, a_stay
from tests.support.relays import claimed

NOTHING = {
    "sagas": {"pending": 0, "cancelling": 0, "oldestAgeS": None},
    "outbox": {"backlog": 0, "blockedKeys": 0},
}
SOMEBODY_ELSE = 9


def test_where_all_is_done_there_is_nothing_to_see(api: Api) -> None:
    assert seen(api) == NOTHING


def test_what_waits_is_counted_whoever_it_is_of(api: Api, engine: Engine) -> None:
    first, _, third = (reserved(api, member) for member in (ME, ANOTHER, ANOTHER))
    api.member(ANOTHER).post(f"/v1/reservations/{third}/cancellation").raise_for_status()
    asked(engine, first, seconds_ago=300)

    found = seen(api)

    assert 300 <= found["sagas"].pop("oldestAgeS") < 400
    assert found == {
        "sagas": {"pending": 2, "cancelling": 1},
        "outbox": {"backlog": 4, "blockedKeys": 0},
    }


def test_a_saga_that_was_asked_again_has_waited_since_the_first_time(
    api: Api, engine: Engine
) -> None:
    """And one that is being cancelled, since it was."""
    redriven, cancelling = reserved(api, ME), reserved(api, ME)
    asked(engine, redriven, seconds_ago=300)
    asked(engine, cancelling, seconds_ago=9_000)
    api.member(ME).post(f"/v1/reservations/{cancelling}/cancellation").raise_for_status()
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO reservations.transition (reservation_id, version, status, message_id, reason)
                VALUES (:id, 2, 'PENDING', gen_random_uuid(), 'REDRIVEN')
            """),
            {"id": redriven},
        )

    assert 300 <= seen(api)["sagas"]["oldestAgeS"] < 400


def test_what_is_published_is_no_backlog_and_what_holds_up_its_key_is_counted(
    api: Api, engine: Engine
) -> None:
    reserved(api, ME)
    shard = claimed(engine)
    with engine.begin() as connection:
        reading = reader.read(connection, shard.cursor, shard.hashes, limit=1)
        reader.block_key(connection, shard, reading.cursor, reading.rows[0][0], "too large")
        reader.save(connection, shard, reading.cursor, lease_s=10)

    assert seen(api)["outbox"] == {"backlog": 0, "blockedKeys": 1}


def reserved(api: Api, member: int) -> int:
    response = api.member(member).post("/v1/reservations", json=a_stay()).raise_for_status()
    return int(response.json()["id"])


def asked(engine: Engine, reservation_id: int, *, seconds_ago: int) -> None:
    """Let a reservation have been asked for then."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE reservations.transition SET created_at = now() - make_interval(secs => :ago)
                WHERE reservation_id = :id
            """),
            {"id": reservation_id, "ago": seconds_ago},
        )


def seen(api: Api) -> dict[str, dict[str, float]]:
    response = api.member(SOMEBODY_ELSE, OPERATE).get("/v1/operations").raise_for_status()
    found: dict[str, dict[str, float]] = response.json()
    return found
