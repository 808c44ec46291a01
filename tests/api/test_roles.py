"""Each process may do what its statements need, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

import outbox
from consumers import dead_letters
from consumers.process import delete_old_keys_once
from consumers.redrive import redrive_once
from domain.idempotency import RESERVATION_KEYS, ROOM_KEYS
from innbox_process.database import direct_engine, pooled_engine
from ops.local import Servers
from ops.relay_config import relay_config
from outbox import admin
from relay.housekeeping import maintain_partitions_once
from runtime.settings import Role, Settings
from tests.conftest import a_configuration
from tests.support.relays import messages_of_keys
from tests.support.role_matrix import API, MAY, RELAY, RESULTS, ROLES, ROOMS, granted
from tests.support.saga import a_record, a_reserve

TAKE_A_ROOM = """
    INSERT INTO rooms.room_night (room_id, night, capacity, capacity_peak, taken)
    VALUES (7, '2027-01-01', 1, 1, 1)
"""
MAKE_PARTITION = """
    CREATE TABLE outbox.message_20200101 PARTITION OF outbox.message
    FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')
"""
# It would run as whoever appends.
HANG_TRIGGER = """
    CREATE TRIGGER hung BEFORE UPDATE ON outbox.message
    FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
"""
# One of each kind that must not be; the matrix is the whole of it.
REFUSED = [
    (API, "UPDATE outbox.message SET topic = 'another'"),
    (API, "SELECT value FROM outbox.message"),
    (API, "DELETE FROM reservations.reservation"),
    (API, "UPDATE reservations.reservation SET member_id = 2"),
    (API, "DELETE FROM reservations.idempotency_key"),
    (API, "UPDATE reservations.transition SET actor = 'rooms'"),
    (API, "UPDATE rooms.room_night SET taken = 0"),
    (API, TAKE_A_ROOM),
    (API, "SELECT FROM rooms.allocation"),
    (API, "SELECT FROM consumers.dead_letter"),
    (RELAY, "SELECT FROM reservations.reservation"),
    (RELAY, HANG_TRIGGER),
    (RELAY, "ALTER TABLE outbox.message RENAME TO aside"),
    (RELAY, "DROP TABLE outbox.message"),
    (RELAY, "DELETE FROM outbox.message"),
    (RELAY, "TRUNCATE outbox.message_default"),
    (RELAY, "LOCK TABLE outbox.message IN SHARE MODE"),
    (RELAY, "SELECT FROM rooms.room"),
    (RELAY, "DELETE FROM outbox.shard"),
    (RELAY, "UPDATE outbox.shard SET hash_to = 0"),
    (RELAY, "INSERT INTO outbox.topic VALUES ('another', 1)"),
    (ROOMS, "SELECT FROM reservations.reservation"),
    (ROOMS, "UPDATE rooms.room_night SET capacity = 1"),
    (ROOMS, "DELETE FROM rooms.allocation"),
    (ROOMS, "SELECT value FROM consumers.dead_letter"),
    (ROOMS, "SELECT FROM outbox.message"),
    (RESULTS, "SELECT FROM rooms.room_night"),
    (RESULTS, "SELECT response_body FROM reservations.idempotency_key"),
    (RESULTS, "INSERT INTO reservations.reservation (member_id) VALUES (1)"),
    (RESULTS, "UPDATE consumers.dead_letter SET state = 'DISCARDED'"),
    *((role, f"CREATE TABLE {schema}.made (n int)")
      for role in ROLES for schema in ("public", "reservations", "rooms", "consumers", "outbox")),
    *((role, MAKE_PARTITION) for role in ROLES),
    *((role, "DROP TABLE outbox.message_default") for role in ROLES),
    *((role, "SELECT outbox.make_partition('2020-01-01')") for role in (API, ROOMS, RESULTS)),
    *((role, "SELECT outbox.drop_partitions('{}', '1:1:')") for role in (API, ROOMS, RESULTS)),
    *((role, "ALTER TABLE reservations.reservation DISABLE ROW LEVEL SECURITY") for role in ROLES),
    *((role, "CREATE ROLE innbox_made") for role in ROLES),
]  # fmt: skip

As = Callable[[Role], Engine]


@pytest.fixture
def brief(servers: Servers, database_url: str) -> Settings:
    return a_configuration(servers, database_url)


@pytest.fixture
def as_(brief: Settings) -> Iterator[As]:
    """Engines as the processes have them, in their roles."""
    with ExitStack() as last:

        def engine(role: Role) -> Engine:
            made = pooled_engine(brief, brief.database_url, "test", role)
            last.callback(made.dispose)
            return made

        yield engine


def test_each_role_may_do_exactly_this(engine: Engine) -> None:
    """All tables and sequences that there are; everybody else may do nothing."""
    with engine.connect() as connection:
        assert granted(connection) == MAY


@pytest.mark.parametrize(("role", "statement"), REFUSED)
def test_a_role_cannot_do_what_it_must_not(as_: As, role: Role, statement: str) -> None:
    with as_(role).connect() as connection, pytest.raises(DBAPIError) as refused:
        connection.execute(text(statement))
    assert isinstance(refused.value.orig, InsufficientPrivilege)


def test_the_relay_makes_and_drops_partitions_that_everybody_appends_to(
    as_: As, brief: Settings, engine: Engine
) -> None:
    """By functions; the log stays with who migrates, and nothing is the relay's own."""
    long_ago = datetime.now(UTC) - timedelta(days=30)
    house = direct_engine(brief, brief.database_url, "relay", RELAY)
    with as_(RELAY).begin() as connection:
        admin.ensure_partitions(connection, long_ago.date(), days_ahead=0)
    changes = maintain_partitions_once(house, relay_config(brief))
    assert changes.dropped == [f"message_{long_ago:%Y%m%d}"]

    for role in (API, ROOMS, RESULTS):
        with as_(role).begin() as connection:
            outbox.append(connection, messages_of_keys(1))
    with engine.connect() as connection:
        owners = text("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname ~ '^message'"
                      " AND relkind IN ('r', 'p')")  # fmt: skip
        assert set(connection.scalars(owners)) == {connection.scalar(text("SELECT current_user"))}
        assert connection.scalar(text("SELECT count(*) FROM ONLY outbox.message_default")) == 0
        assert connection.scalar(text("SELECT count(*) FROM outbox.message")) == 3


def test_no_role_owns_anything(engine: Engine) -> None:
    """An owner may hang triggers on its table, or put a view in its place, which run as who comes by."""
    owned = text("""
        SELECT pg_describe_object(classid, objid, objsubid)
        FROM pg_shdepend JOIN pg_roles ON pg_roles.oid = refobjid
        WHERE deptype = 'o' AND rolname = ANY (:roles)
    """)
    with engine.connect() as connection:
        assert connection.scalars(owned, {"roles": list(ROLES)}).all() == []


def test_what_runs_as_its_owner_finds_nothing_of_who_calls_it(engine: Engine) -> None:
    """No table or operator of the caller's can take the place of one that is meant."""
    paths = text("SELECT proname, proconfig FROM pg_proc WHERE prosecdef ORDER BY proname")
    with engine.connect() as connection:
        path = ["search_path=pg_catalog, pg_temp"]
        assert [tuple(row) for row in connection.execute(paths)] == [
            ("drop_partitions", path),
            ("make_partition", path),
        ]


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        ("make_partition('infinity')", "no day of a calendar"),
        ("make_partition('0044-03-15 BC')", "no day of a calendar"),
        ("drop_partitions('{2020-01-01}', '1:1:')", "no partition of 2020-01-01"),
        ("drop_partitions('{NULL}', '1:1:')", "no partition of"),
    ],
)
def test_the_relay_makes_days_and_drops_partitions_of_the_log_only(
    as_: As, engine: Engine, call: str, refusal: str
) -> None:
    """A table that is only named like a partition is none."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE outbox.message_20200101 (LIKE outbox.message)"))
    with as_(RELAY).connect() as connection, pytest.raises(DBAPIError, match=refusal):
        connection.execute(text(f"SELECT outbox.{call}"))


def test_consumers_and_their_timed_jobs_can_do_their_work(as_: As) -> None:
    """What fails in a timed job is only logged, so nothing else would show it."""
    letter = a_record(a_reserve())
    for role, keys in ((ROOMS, ROOM_KEYS), (RESULTS, RESERVATION_KEYS)):
        assert delete_old_keys_once(as_(role), keys, older_than_s=0) == 0
        with as_(role).begin() as connection:
            [new] = dead_letters.keep(connection, role, [(letter, "a test")])
            [known] = dead_letters.keep(connection, role, [(letter, "a test")])
            assert (new.is_new, known.is_new, known.id) == (True, False, new.id)
    assert redrive_once(as_(RESULTS), older_than_s=0) == 0
