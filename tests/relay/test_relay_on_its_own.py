"""The relay without innbox: the page that says how to run it is followed command by command."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

import relay.cli.root
from ops.local import Servers
from ops.ports import free_port
from outbox.schema import LATEST, grants, installed_version, upgrades
from runtime.settings import Settings
from tests.conftest import _delete_topics, a_configuration
from tests.support.kafka_reader import read_to_the_ends
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "run-the-relay-on-your-own-database.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
PROGRAMS = Path(sys.executable).parent
RELAYS = {
    "at-least-once": "innbox-relay run",
    "exactly-once": "innbox-relay run --mode exactly-once",
}


@dataclass(frozen=True)
class Shop:
    """A directory with the page's program, and the environment of its commands."""

    directory: Path
    settings: Settings
    health_port: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.settings.database_url,
            "KAFKA_BOOTSTRAP_SERVERS": self.settings.kafka_bootstrap_servers,
            "KAFKA_PREFIX": self.settings.kafka_prefix,
            "LEASE_S": "2",
            "COLUMNS": "200",
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        }

    def run(self, command: str, expected: int = 0) -> str:
        """Run a command of the page, and return what it printed."""
        command = command.replace("9000", str(self.health_port))
        ended = subprocess.run(
            command,
            shell=True,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == expected, f"{command}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    @contextmanager
    def relay(self, command: str) -> Iterator[None]:
        """A relay as the page starts it; asked to end, it ends well."""
        with (self.directory / "relay.log").open("wb") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec env {command}"],
                cwd=self.directory,
                env=self.environment | {"HEALTH_PORT": str(self.health_port)},
                stderr=log,
            )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, (self.directory / "relay.log").read_text()

    def published(self) -> list[bytes | str | None]:
        """The values that a reader of committed records sees."""
        return [record.value() for record in read_to_the_ends(self.settings, ["orders"])]


@pytest.fixture
def shop(servers: Servers, empty_database_url: str, tmp_path: Path) -> Iterator[Shop]:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "place.py").write_text(program)
    settings = a_configuration(servers, empty_database_url)
    yield Shop(tmp_path, settings, free_port())
    _delete_topics(settings)


@pytest.mark.parametrize(
    "mode", ["at-least-once", pytest.param("exactly-once", marks=pytest.mark.proof)]
)
def test_the_page_leads_from_nothing_to_a_relay_that_publishes(shop: Shop, mode: str) -> None:
    """Each of its commands, in the order of the page, and what it says of them."""
    migrate, topics, place, *rest = COMMANDS
    runs = [command.partition(" ")[2] for command in rest[:2]]
    assert runs == list(RELAYS.values())
    health, *looks, grant = rest[2:]
    for command in (migrate, topics, place):
        shop.run(command)
    with shop.relay(RELAYS[mode]):
        eventually(lambda: shop.published() == [b"tea", b"coffee"])
        assert json.loads(shop.run(health))["ready"]
        for command in looks:
            shop.run(command)
        eventually(lambda: shop.published() == [b"tea", b"coffee", b"milk"])
        eventually(lambda: audit(shop)["published"] == 3)
    assert (audit(shop)["missing"], len(shop.published())) == (0, 3)
    assert len(json.loads(shop.run("innbox-relay shards --json"))["shards"]) == 2
    assert "--relay-role shop_relay --writer-role shop_writer" in grant


def test_the_help_of_the_relay_says_nothing_of_rooms(shop: Shop) -> None:
    """Nor of anything else that innbox has."""
    helps = ("--help", *(f"{name} --help" for name in relay.cli.root.COMMANDS))
    said = "".join(shop.run(f"innbox-relay {help_}") for help_ in helps)
    assert not re.search(
        r"\brooms?\b|reservation|hotel|\bcontexts?\b", said.replace("--context", "")
    )


def test_settings_are_complained_about_together(shop: Shop) -> None:
    wrong = "DATABASE_URL= RELAY_MODE=twice LEASE_S=soon KAFKA_PROPERTIES=none"
    told = shop.run(f"{wrong} innbox-relay run 2>&1", expected=2)
    assert "DATABASE_URL" in told
    told = shop.run(f"{wrong} DATABASE_URL=postgresql://nobody innbox-relay run 2>&1", expected=2)
    assert all(name in told for name in ("RELAY_MODE", "LEASE_S", "KAFKA_PROPERTIES"))


def test_a_relay_in_a_role_of_its_own_publishes_and_looks_after_the_partitions(
    roles: tuple[str, str], shop: Shop
) -> None:
    """The role is named by whoever makes it, and owns nothing."""
    relays, writer = roles
    shop.run(f"innbox-relay migrate --relay-role {relays} --writer-role {writer}")
    shop.run("innbox-relay topics orders --partitions 1")
    append = f"PGOPTIONS='-c role={writer}' python place.py tea"
    shop.run(append)
    with shop.relay(f"DATABASE_ROLE={relays} innbox-relay run"):
        eventually(lambda: shop.published() == [b"tea"])
        eventually(lambda: len(partitions(shop)) > 7)


@pytest.fixture
def roles(servers: Servers) -> Iterator[tuple[str, str]]:
    names = (f"relay_{os.getpid()}", f"writer_{os.getpid()}")
    engine = create_engine(servers.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in names:
            connection.execute(text(f"CREATE ROLE {name}"))
        yield names
        for name in names:
            connection.execute(text(f"DROP ROLE IF EXISTS {name}"))


def test_each_version_of_the_schema_is_known_by_its_mark(empty_database_url: str) -> None:
    """So that `migrate` goes on from wherever another tool has brought it."""
    engine = create_engine(empty_database_url, poolclass=NullPool)
    with engine.begin() as connection:
        for version in range(LATEST):
            assert installed_version(connection) == version
            for statement in upgrades(since=version, to=version + 1):
                connection.exec_driver_sql(statement)
        assert installed_version(connection) == LATEST


def test_migrate_is_repeatable_and_goes_on_from_an_older_version(shop: Shop) -> None:
    with engine_of(shop).begin() as connection:
        for statement in upgrades(to=3):
            connection.exec_driver_sql(statement)
    first = json.loads(shop.run("innbox-relay migrate --json"))["databases"]["outbox"]
    again = json.loads(shop.run("innbox-relay migrate --json"))["databases"]["outbox"]
    assert (first, again) == ({"from": 3, "to": LATEST}, {"from": LATEST, "to": LATEST})


def test_the_sql_of_migrate_makes_the_same_tables(shop: Shop) -> None:
    script = shop.run("innbox-relay migrate --sql")
    with engine_of(shop).begin() as connection:
        connection.exec_driver_sql(script.replace("%", "%%"))
        assert installed_version(connection) == LATEST


@pytest.mark.unit
def test_a_role_is_quoted_whatever_its_name() -> None:
    assert all('"it""s"' in each for each in grants(writers=['it"s']))


def engine_of(shop: Shop) -> Engine:
    return create_engine(shop.settings.database_url, poolclass=NullPool)


def partitions(shop: Shop) -> dict[str, str]:
    found: dict[str, str] = json.loads(shop.run("innbox-relay partitions --json"))["partitions"][
        "outbox"
    ]
    return found


def audit(shop: Shop) -> dict[str, int]:
    (topic,) = json.loads(shop.run("innbox-relay audit --json"))["topics"]
    counts: dict[str, int] = topic
    return counts
