"""Real servers for every test: one Postgres and one Kafka a session, a database and topics a test.

The servers are, in this order, those of DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS, those of
`--servers=containers`, or the embedded ones.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path

import httpx
import hypothesis
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from consumers.results import ResultsHandler
from ops import local
from ops.local import Servers
from ops.migrate import migrate
from ops.topics import create_topics, declare
from outbox import Doorbell
from runtime.settings import Settings

# Helpers' assertions show what they compared, as the tests' own do. Before they are imported:
pytest.register_assert_rewrite(
    "tests.support.api_client",
    "tests.support.ordered_writers",
    "tests.support.relays",
    "tests.support.room_requests",
)

from tests.support.api_client import ME, Api, an_api, some_settings, today  # noqa: E402 - see above

_numbers = count(1)


hypothesis.settings.register_profile("patient", deadline=None)  # a machine may stall


def pytest_configure() -> None:
    """Let Ctrl-C be Ctrl-C: started in the background by a shell, we and our children would ignore it."""
    hypothesis.settings.load_profile("patient")
    # Brokers that live for minutes spend a third of their processor time on compiling for years.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=("embedded", "containers"),
        default="embedded",
        help="where Postgres and Kafka come from, unless the environment names them",
    )


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    database, kafka = os.environ.get("DATABASE_URL"), os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if database and kafka:
        yield Servers(database, kafka)
    elif request.config.getoption("--servers") == "containers":
        with ExitStack() as stack:
            yield _containers(stack)
    else:
        # A crash of the machine ends the tests anyway, so they need not wait for its disk.
        with local.running(tmp_path_factory.mktemp("servers"), durable=False) as servers:
            yield servers


@pytest.fixture(scope="session")
def template(servers: Servers) -> Iterator[str]:
    """A migrated database to copy, which takes a tenth of the time of migrating."""
    with _database(servers, f"template_{os.getpid()}") as url:
        migrate(url)
        declare(some_settings(url))
        yield url


@pytest.fixture
def database_url(servers: Servers, template: str) -> Iterator[str]:
    """A migrated database of the test's own, its topics declared."""
    with _database(servers, f"test_{os.getpid()}_{next(_numbers)}", template) as url:
        yield url


@pytest.fixture
def second_database_url(servers: Servers, template: str) -> Iterator[str]:
    """Another one, for tests of two contexts in two databases."""
    with _database(servers, f"test_{os.getpid()}_{next(_numbers)}", template) as url:
        yield url


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """A database that no migration has touched."""
    with _database(servers, f"test_{os.getpid()}_{next(_numbers)}") as url:
        yield url


@pytest.fixture(autouse=True)
def _today() -> None:
    """Each test has one day, which may be the eve of the next one's."""
    today.cache_clear()


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    """An API with the settings of `some_settings`; modules that need others have one of their own."""
    with an_api(database_url) as api:
        yield api


@pytest.fixture
def me(api: Api) -> httpx.Client:
    return api.member(ME)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url, pool_size=20)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(servers: Servers, database_url: str) -> Iterator[Settings]:
    """Settings for the test's own database and topics, which exist on the broker."""
    settings = a_configuration(servers, database_url)
    create_topics(settings)
    yield settings
    _delete_topics(settings)


def _delete_topics(settings: Settings) -> None:
    """A broker has a file open for each partition, and may have no more than a thousand."""
    admin = AdminClient(settings.kafka | {"log_level": 0})
    topics = admin.list_topics(timeout=30).topics
    names = [name for name in topics if name.startswith(settings.kafka_prefix)]
    for deleted in admin.delete_topics(names).values() if names else ():
        with suppress(KafkaException):  # the test may have deleted it itself, just now
            deleted.result(30)


@pytest.fixture(params=["at-least-once", "exactly-once"])
def relaying(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """The settings with each way of relaying; the test runs once for each."""
    return settings.model_copy(update={"relay_mode": request.param})


def a_configuration(servers: Servers, database_url: str, **changes: object) -> Settings:
    """Settings that wait shortly, since tests wait for what must happen and not for time."""
    defaults: dict[str, object] = {
        "database_url": database_url,
        "kafka_bootstrap_servers": servers.kafka_bootstrap_servers,
        "kafka_prefix": f"t{os.getpid()}-{next(_numbers)}-",
        "jwt_key": "a key for tests, of thirty-two bytes or more",
        "topic_partitions": 3,
        "lease_s": 2.0,
        "shutdown_s": 25.0,  # but who asks for an end is not told "too late" by a stall
        "log_format": "console",
    }
    return Settings.model_validate(defaults | changes)


@pytest.fixture
def results(engine: Engine) -> Iterator[ResultsHandler]:
    """The handler of the results, ringing where nobody listens."""
    with closing(Doorbell(engine, "nobody")) as doorbell:
        yield ResultsHandler(doorbell)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory for servers of the test's own, which the test stops."""
    return tmp_path / "innbox"


class _database:  # noqa: N801 - read as a with-statement
    """A database for the length of a block."""

    def __init__(self, servers: Servers, name: str, template: str | None = None) -> None:
        self._admin = create_engine(
            servers.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        self._name = name
        self._template = make_url(template).database if template else "template0"
        self._url = make_url(servers.database_url).set(database=name)

    def __enter__(self) -> str:
        with self._admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {self._name} TEMPLATE {self._template}"))
        return self._url.render_as_string(hide_password=False)

    def __exit__(self, *_: object) -> None:
        with self._admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)"))


def _containers(stack: ExitStack) -> Servers:
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - needs Docker
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415

    postgres = stack.enter_context(PostgresContainer("postgres:18-alpine", driver="psycopg"))
    kafka = stack.enter_context(KafkaContainer("confluentinc/cp-kafka:8.0.0").with_kraft())
    return Servers(postgres.get_connection_url(), kafka.get_bootstrap_server())
