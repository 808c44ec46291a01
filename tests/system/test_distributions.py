"""What is installed beside anybody's code: wheels with their own names only, typed, that know no hotel.

Each wheel is built and installed into an empty environment. The project beside it has packages with all
the names that innbox, the application, has itself; it type-checks, migrates, appends and reads.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from ops.local import Servers
from tests.conftest import _delete_topics, a_configuration
from tests.support.a_shop import FILES, NAMES
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=Path(sys.executable).parent) or "uv"
LAST_2_0 = "sqlalchemy<2.1"


@dataclass(frozen=True)
class Distribution:
    """A member of the workspace: where it is, what it installs, and what it needs, options apart."""

    directory: str
    packages: frozenset[str]
    needs: frozenset[str]
    # Whether it is for a system without rooms.
    is_general: bool = True

    @property
    def name(self) -> str:
        return f"innbox_{Path(self.directory).name.removeprefix('innbox_')}"


DISTRIBUTIONS = (
    Distribution("outbox", frozenset({"outbox"}), frozenset({"msgspec", "psycopg", "sqlalchemy"})),
    Distribution(
        "distributions/relay",
        frozenset({"relay", "innbox_process"}),
        frozenset(
            {
                "apscheduler",
                "click",
                "confluent-kafka",
                "innbox-outbox",
                "msgspec",
                "prometheus-client",
                "psycopg",
                "rich",
                "sqlalchemy",
                "structlog",
            }
        ),
    ),
    Distribution(
        "innbox_client",
        frozenset({"innbox_client"}),
        frozenset({"httpx", "httpx-sse", "msgspec"}),
        is_general=False,
    ),
)
each_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda one: one.name)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels, by the names of the distributions; built with what is installed, from no index."""
    built = tmp_path_factory.mktemp("wheels")
    for distribution in DISTRIBUTIONS:
        options = ["--wheel", "--no-build-isolation", "--offline", "--python", sys.executable]
        run(UV, "build", *options, "--out-dir", built, ROOT / distribution.directory, cwd=ROOT)
    return {wheel.name.partition("-")[0]: wheel for wheel in built.glob("*.whl")}


@dataclass(frozen=True)
class Shop:
    """A project of somebody's, and the environment that it runs in."""

    directory: Path
    python: Path
    database_url: str

    def run(self, *arguments: str) -> str:
        environment = {"DATABASE_URL": self.database_url, "PATH": os.environ["PATH"]}
        return run(self.python, *arguments, cwd=self.directory, env=environment)


@pytest.fixture(params=["", pytest.param(LAST_2_0, marks=pytest.mark.proof)], ids=["newest", "2.0"])
def shop(
    request: pytest.FixtureRequest,
    wheels: dict[str, Path],
    empty_database_url: str,
    tmp_path: Path,
) -> Iterator[Shop]:
    for name, content in FILES.items():
        file = tmp_path / "shop" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    python = tmp_path / "environment" / "bin" / "python"
    run(UV, "venv", "--python", sys.executable, python.parent.parent, cwd=tmp_path)
    extras = {"innbox_outbox": "[alembic,binary]", "innbox_relay": "[binary]"}
    wanted = [f"{name}{extras.get(name, '')} @ {wheel.as_uri()}" for name, wheel in wheels.items()]
    wanted += [request.param] if request.param else []
    run(UV, "pip", "install", "--python", python, *wanted, cwd=tmp_path)
    yield Shop(tmp_path / "shop", python, empty_database_url)
    shutil.rmtree(python.parent.parent)


@each_distribution
def test_a_wheel_has_its_own_package_typed_and_nothing_else(
    distribution: Distribution, wheels: dict[str, Path]
) -> None:
    with ZipFile(wheels[distribution.name]) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == distribution.packages
    assert {f"{package}/py.typed" for package in distribution.packages} <= set(names)
    assert all(name.endswith((".py", "/py.typed")) for name in names)
    for package in distribution.packages:
        source = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert source == {name for name in names if name.startswith(package) and name[-3:] == ".py"}


@each_distribution
def test_a_wheel_needs_what_it_says_and_no_more(
    distribution: Distribution, wheels: dict[str, Path]
) -> None:
    metadata = metadata_of(wheels[distribution.name])
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {re.split(r"[<>=\[;]", line)[0].strip() for line in needed} == distribution.needs


@each_distribution
def test_what_is_general_knows_no_room(distribution: Distribution, wheels: dict[str, Path]) -> None:
    with ZipFile(wheels[distribution.name]) as wheel:
        for name in wheel.namelist() if distribution.is_general else ():
            content = wheel.read(name).decode().lower()
            assert not {"room", "guest", "hotel"} & set(content.split()), name


def test_a_project_with_the_names_of_innbox_appends_and_reads(shop: Shop) -> None:
    """With the newest SQLAlchemy, and with the last one of 2.0."""
    check = ["-m", "mypy", "--strict", "--cache-dir", str(shop.directory.parent / "types")]
    run(sys.executable, *check, "--python-executable", shop.python, ".", cwd=shop.directory)
    shop.run("-m", "alembic", "upgrade", "head")
    told = json.loads(shop.run("shop.py"))

    assert told["own"] == {name: str(shop.directory / name) for name in NAMES}
    assert told["waiting"] == 2
    assert told["read"] == [["orders", "1", "tea"], ["orders", "2", "coffee"]]
    assert told["waiting_after"] == 0
    assert schemas_of(shop.database_url) == {"outbox", "public"}
    shop.run("-m", "alembic", "downgrade", "base")
    assert schemas_of(shop.database_url) == {"public"}


_APPEND = """
import os, sqlalchemy, outbox
with sqlalchemy.create_engine(os.environ["DATABASE_URL"]).begin() as connection:
    outbox.append(connection, [outbox.Message("orders", "1", "order.placed", b"tea")])
"""


def test_the_relay_of_a_wheel_publishes_what_a_project_appended(
    shop: Shop, servers: Servers
) -> None:
    """On a database and a topic of the project's own; the audit of the wheel finds it."""
    settings = a_configuration(servers, shop.database_url)
    environment = {
        "DATABASE_URL": shop.database_url,
        "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap_servers,
        "KAFKA_PREFIX": settings.kafka_prefix,
        "RELAY_MODE": "exactly-once",
        "PATH": os.environ["PATH"],
    }
    relay = shop.python.with_name("innbox-relay")

    def published() -> bool:
        told = run(relay, "audit", "--json", cwd=shop.directory, env=environment)
        return bool(json.loads(told)["topics"][0]["published"])

    for command in (["migrate"], ["topics", "orders"]):
        run(relay, *command, cwd=shop.directory, env=environment)
    shop.run("-c", _APPEND)
    with subprocess.Popen([relay, "run"], cwd=shop.directory, env=environment) as process:
        try:
            eventually(published)
        finally:
            process.terminate()
    assert process.returncode == 0
    _delete_topics(settings)


def schemas_of(url: str) -> set[str]:
    """Return where the tables of a database are."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        named = text(
            "SELECT schemaname FROM pg_tables WHERE schemaname !~ '^pg_|^information_schema$'"
        )
        return set(connection.execute(named).scalars())


def metadata_of(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def run(
    program: str | Path, *arguments: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> str:
    """Run a program, and return what it printed; what failed is shown whole."""
    ended = subprocess.run(
        [program, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{ended.args}\n{ended.stdout}{ended.stderr}"
    return ended.stdout
