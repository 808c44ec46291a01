"""Who takes a process' role, who is refused and told why, and who may migrate."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from consumers.row_security import require_all_rows
from innbox_process.bounds import BoundedConnection
from innbox_process.database import direct_engine, pooled_engine, url_in_role
from ops.local import Servers
from ops.migrate import migrate, migration_sql
from runtime.settings import Role, Settings
from tests.conftest import a_configuration
from tests.support.migrating import check, downgrade
from tests.support.role_matrix import API, MAY, RELAY, ROLES, granted
from tests.support.waiting import eventually

migration = import_module("migrations.versions.0009_roles")


@pytest.fixture
def brief(servers: Servers, database_url: str) -> Settings:
    return a_configuration(servers, database_url)


@pytest.fixture
def admin(servers: Servers) -> Iterator[Connection]:
    engine = create_engine(servers.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def guest(admin: Connection, database_url: str) -> Iterator[str]:
    """A login that may connect to the test's database, and nothing else."""
    with a_login(admin, f"guest_{make_url(database_url).database}") as name:
        yield name


@pytest.fixture
def migrator(admin: Connection, empty_database_url: str) -> Iterator[str]:
    """A login that may make roles, and owns the test's database, but is no superuser."""
    database = make_url(empty_database_url).database
    with a_login(admin, f"migrator_{database}", "CREATEROLE") as name:
        admin.execute(text(f"ALTER DATABASE {database} OWNER TO {name}"))
        yield name
        admin.execute(text(f"DROP DATABASE {database} WITH (FORCE)"))


@pytest.mark.parametrize("role", ROLES)
def test_a_process_is_in_its_role_on_every_connection(brief: Settings, role: Role) -> None:
    """Also on one that is made without an engine."""
    for made in (pooled_engine, direct_engine):
        assert current_user(made(brief, brief.database_url, "test", role)) == role
    bare = make_url(url_in_role(brief, brief.database_url, role)).set(drivername="postgresql")
    with psycopg.connect(bare.render_as_string(hide_password=False)) as connection:
        assert connection.execute("SELECT current_user").fetchall() == [(role,)]


def test_a_login_without_the_role_is_told_what_to_grant(
    brief: Settings, admin: Connection, guest: str
) -> None:
    """It is waited for like an outage, since an operator puts it right from outside."""
    engine = pooled_engine(brief, as_login(brief.database_url, guest), "test", API)
    with pytest.raises(OperationalError, match=f"GRANT innbox_api TO {guest}"):
        current_user(engine)

    admin.execute(text(f"GRANT innbox_api TO {guest}"))
    assert current_user(engine) == API


def test_a_login_keeps_its_own_rights_where_roles_are_turned_off(
    servers: Servers, database_url: str, guest: str
) -> None:
    brief = a_configuration(servers, database_url, database_roles=False)
    url = as_login(database_url, guest)
    assert current_user(pooled_engine(brief, url, "test", API)) == guest
    assert url_in_role(brief, url, API) == url


def test_who_settles_is_shown_every_reservation_or_waits(
    servers: Servers, database_url: str, admin: Connection, engine: Engine, guest: str
) -> None:
    """What row-level security hides would otherwise be answers that nobody has asked for."""
    brief = a_configuration(servers, database_url, database_roles=False)
    results = pooled_engine(brief, as_login(database_url, guest), "test", "innbox_results")
    require_all_rows(results)
    with granted_by_hand(engine, guest):
        with pytest.raises(OperationalError, match=f"GRANT innbox_results TO {guest}"):
            current_user(results)

        admin.execute(text(f"GRANT innbox_results TO {guest}"))
        assert current_user(results) == guest
    results.dispose()


def test_an_operator_is_told_what_row_level_security_would_hide(
    servers: Servers, database_url: str, engine: Engine, guest: str
) -> None:
    """And the owner is not stopped by it."""
    brief = a_configuration(servers, database_url)
    look = text("SELECT count(*) FROM reservations.reservation")
    for made in (pooled_engine, direct_engine):
        owners = made(brief, database_url, "test")
        others = made(brief, as_login(database_url, guest), "test")
        with owners.connect() as connection:
            assert connection.scalar(look) == 0
        with granted_by_hand(engine, guest), others.connect() as connection:
            with pytest.raises(ProgrammingError, match="row-level"):
                connection.execute(look)
            connection.rollback()
        owners.dispose()
        others.dispose()


def test_options_of_the_address_stay_beside_the_role(brief: Settings) -> None:
    """However many they are and whatever stands between them."""
    given = make_url(brief.database_url).update_query_dict(
        {"options": "-c search_path=rooms  -c work_mem=5MB"}
    )
    url = url_in_role(brief, given.render_as_string(hide_password=False), API)
    shown = text(
        "SELECT current_user::text, current_setting('search_path'), current_setting('work_mem')"
    )
    bare = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(bare) as connection:
        assert connection.execute(shown.text).fetchall() == [(API, "rooms", "5MB")]


@contextmanager
def granted_by_hand(engine: Engine, guest: str) -> Iterator[None]:
    """Let a login read the tables of reservations, by hand."""
    grant = f"GRANT USAGE ON SCHEMA reservations TO {guest};"
    grant += f"GRANT SELECT ON ALL TABLES IN SCHEMA reservations TO {guest}"
    with engine.begin() as connection:
        connection.execute(text(grant))
    yield
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {guest}"))


def test_a_pooler_that_passes_the_role_over_is_found_out(
    brief: Settings, admin: Connection, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the login takes the role by itself."""
    connect = psycopg.connect
    monkeypatch.setattr(
        psycopg, "connect", lambda *given, **named: connect(*given, **named | {"options": ""})
    )
    engine = pooled_engine(brief, as_login(brief.database_url, guest), "test", API)
    with pytest.raises(OperationalError, match=f"ALTER ROLE {guest} SET role = 'innbox_api'"):
        current_user(engine)

    admin.execute(text(f"GRANT innbox_api TO {guest}"))
    admin.execute(text(f"ALTER ROLE {guest} SET role = 'innbox_api'"))
    assert current_user(engine) == API


def test_a_connection_that_cannot_be_asked_for_its_role_is_closed(
    brief: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else knows of it; each failed attempt would leave one behind."""
    connect, made = BoundedConnection.connect, list[psycopg.Connection]()

    def connect_within_a_transaction(*given: Any, **named: Any) -> psycopg.Connection:
        made.append(connect(*given, **named))
        made[-1].execute("SELECT")
        return made[-1]

    monkeypatch.setattr(BoundedConnection, "connect", connect_within_a_transaction)
    with pytest.raises(ProgrammingError, match="autocommit"):
        current_user(pooled_engine(brief, brief.database_url, "test", API))
    assert [connection.closed for connection in made] == [True]


def test_who_migrates_owns_the_log_and_need_not_be_in_a_role(
    empty_database_url: str, migrator: str
) -> None:
    """Somebody else made the roles here. What the relay has made of the log is the migrating login's."""
    url = as_login(empty_database_url, migrator)
    migrate(url)
    check(url)
    with create_engine(empty_database_url, poolclass=NullPool).begin() as connection:
        connection.execute(text(f"SET LOCAL ROLE {RELAY}"))
        name = connection.scalar(text("SELECT outbox.make_partition('2020-01-01')"))
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert granted(connection) == MAY
        assert owner_of(connection, name) == migrator
        connection.execute(text("ALTER TABLE outbox.message ADD COLUMN added integer"))
        connection.rollback()
        insert = "INSERT INTO reservations.reservation (member_id, room_id, check_in, check_out, "
        values = "status, version) VALUES (1, 7, '2027-01-01', '2027-01-02', 'PENDING', 1)"
        connection.execute(text(insert + values))
        assert connection.scalar(text("SELECT count(*) FROM reservations.reservation")) == 1
    with create_engine(empty_database_url, poolclass=NullPool).begin() as connection:
        connection.execute(text(f"SET LOCAL ROLE {RELAY}"))
        drop = "SELECT outbox.drop_partitions('{2020-01-01}', pg_current_snapshot())"
        assert connection.scalar(text(drop)) == [name]
    downgrade(url, "0008")


def test_who_makes_roles_becomes_a_member(admin: Connection, migrator: str) -> None:
    """Named otherwise here, since those of the cluster are there already."""
    engine = create_engine(
        as_login(admin.engine.url.render_as_string(hide_password=False), migrator),
        poolclass=NullPool,
    )
    with engine.begin() as connection:
        for statement in (migration.CREATE_ROLES, migration.JOIN_ROLES):
            connection.execute(text(statement.replace("innbox_", f"{migrator}_")))
        connection.execute(text(f"SET LOCAL ROLE {migrator}_relay"))
        connection.execute(text(f"SET LOCAL ROLE {migrator}_api"))
    with engine.begin() as connection:
        connection.execute(text(migration.DROP_ROLES.replace("innbox_", f"{migrator}_")))
    left = admin.scalar(text(f"SELECT count(*) FROM pg_roles WHERE rolname ~ '^{migrator}_'"))
    assert left == 0


def test_two_databases_of_a_cluster_may_make_the_roles_at_once(
    engine: Engine, second_database_url: str
) -> None:
    """The second waits for the first, and finds them made."""
    other = create_engine(second_database_url, poolclass=NullPool)
    name = f"{engine.url.database}_"
    make = text(migration.CREATE_ROLES.replace("innbox_", name))
    with engine.connect() as first, other.connect() as second, ThreadPoolExecutor() as threads:
        first.execute(make)
        waiting = threads.submit(second.execute, make)
        eventually(lambda: waits_for_a_lock(engine))
        first.commit()
        waiting.result()
        second.execute(text(migration.DROP_ROLES.replace("innbox_", name)))
        second.commit()


def test_who_may_not_make_roles_is_told_which_are_missing(brief: Settings, guest: str) -> None:
    engine = create_engine(as_login(brief.database_url, guest), poolclass=NullPool)
    missing = (
        f"{guest} may not create roles; .* CREATE ROLE absent_api; GRANT absent_api TO {guest};"
    )
    with engine.connect() as connection, pytest.raises(ProgrammingError, match=missing):
        connection.execute(text(migration.CREATE_ROLES.replace("innbox_", "absent_")))


def test_what_a_restore_leaves_out_is_made_good_by_the_script(engine: Engine) -> None:
    """One without privileges, say; or what a hand has changed."""
    with engine.begin() as connection:
        for harm in (
            "REVOKE ALL ON ALL TABLES IN SCHEMA rooms FROM innbox_rooms",
            "DROP POLICY of_the_member ON reservations.reservation",
            "ALTER FUNCTION outbox.make_partition(date) SECURITY INVOKER",
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO PUBLIC",
        ):
            connection.execute(text(harm))
        assert granted(connection) != MAY
    with engine.begin() as connection:
        connection.exec_driver_sql(
            migration_sql(engine.url.render_as_string(hide_password=False), "0008:0009")
        )
    with engine.connect() as connection:
        assert granted(connection) == MAY
        assert policies(connection) == len(migration.POLICIES)
        assert connection.scalar(text("SELECT count(*) FROM pg_proc WHERE prosecdef")) == 2
        # A later revision stays what it is.
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) > "0009"


def waits_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def owner_of(connection: Connection, partition: str) -> str:
    owner = text("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = :name")
    name: str = connection.execute(owner, {"name": partition}).scalar_one()
    return name


def policies(connection: Connection) -> int:
    found: int = connection.execute(text("SELECT count(*) FROM pg_policies")).scalar_one()
    return found


def current_user(engine: Engine) -> str:
    with engine.connect() as connection:
        name: str = connection.execute(text("SELECT current_user")).scalar_one()
    engine.dispose()
    return name


def as_login(url: str, name: str) -> str:
    return make_url(url).set(username=name).render_as_string(hide_password=False)


@contextmanager
def a_login(admin: Connection, name: str, rights: str = "") -> Iterator[str]:
    admin.execute(text(f"CREATE ROLE {name} LOGIN {rights}"))
    yield name
    admin.execute(text(f"DROP ROLE {name}"))
