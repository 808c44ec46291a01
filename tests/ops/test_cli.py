"""The command line: clear messages, sensible exit codes, JSON for programs."""

import json
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import Engine

from consumers import dead_letters
from domain.messages import ROOM_RESERVE, ROOMS_GROUP
from innbox_process.records import Record
from ops.environment import as_environment
from ops.topics import create_topics
from runtime.settings import Settings
from tests.support.commands import innbox


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return as_environment(settings)


@pytest.mark.parametrize("command", ["", "relay", "migrate", "demo", "outbox", "local", "bench"])
def test_help_is_there_for_every_command(command: str, tmp_path: Path) -> None:
    shown = innbox(*command.split(), "--help", data=tmp_path)
    assert shown.returncode == 0
    assert "Usage: innbox" in shown.stdout


def test_without_servers_it_says_what_to_set_and_exits_with_2(tmp_path: Path) -> None:
    refused = innbox("relay", data=tmp_path)
    assert refused.returncode == 2
    assert "DATABASE_URL" in refused.stderr
    assert "innbox local start" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_database_that_is_away_is_one_line(tmp_path: Path) -> None:
    away = {
        "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/nowhere",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }
    refused = innbox("migrate", data=tmp_path, environment=away)
    assert refused.returncode == 2
    assert "Postgres: connection failed" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_migrate_says_from_where_to_where(
    tmp_path: Path, settings: Settings, empty_database_url: str
) -> None:
    environment = as_environment(settings) | {"DATABASE_URL": empty_database_url}
    environment |= {"RESERVATIONS_DATABASE_URL": "", "ROOMS_DATABASE_URL": ""}
    first = json.loads(innbox("migrate", "--json", data=tmp_path, environment=environment).stdout)
    again = json.loads(innbox("migrate", "--json", data=tmp_path, environment=environment).stdout)

    (one,), (two,) = first["databases"].values(), again["databases"].values()
    assert one["from"] is None
    assert two["from"] == two["to"] == one["to"]


def test_migrate_prints_sql_without_a_database(tmp_path: Path) -> None:
    printed = innbox("migrate", "--sql", data=tmp_path)
    assert printed.returncode == 0
    assert "CREATE TABLE outbox.message" in printed.stdout


def test_topics_are_created_once_with_the_settings(
    tmp_path: Path, settings: Settings, environment: dict[str, str]
) -> None:
    prefix = f"{settings.kafka_prefix}cli-"
    environment |= {"KAFKA_PREFIX": prefix, "TOPIC_PARTITIONS": "5"}
    first = json.loads(innbox("topics", "--json", data=tmp_path, environment=environment).stdout)
    again = json.loads(innbox("topics", "--json", data=tmp_path, environment=environment).stdout)

    assert {topic["name"]: topic["partitions"] for topic in first["topics"]} == {
        f"{prefix}room-reserve": 5,
        f"{prefix}room-cancel": 5,
        f"{prefix}reservation-result": 5,
        f"{prefix}outbox-cursor": 1,
    }
    assert all(topic["created"] for topic in first["topics"])
    assert not any(topic["created"] for topic in again["topics"])


def test_shards_and_partitions_are_shown(tmp_path: Path, environment: dict[str, str]) -> None:
    shown = json.loads(
        innbox("outbox", "shards", "--json", data=tmp_path, environment=environment).stdout
    )
    assert [shard["owner"] for shard in shown["shards"]] == [None]
    table = innbox("outbox", "partitions", data=tmp_path, environment=environment)
    assert table.returncode == 0


def test_verify_passes_on_an_empty_system_and_names_every_invariant(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    verified = innbox("verify", "--json", data=tmp_path, environment=environment)
    verdict = json.loads(verified.stdout)
    assert verified.returncode == 0
    assert verdict["holds"]
    named = {finding["invariant"] for finding in verdict["findings"]}
    assert named >= {"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I12"}


def test_a_token_is_not_signed_in_production(tmp_path: Path, environment: dict[str, str]) -> None:
    refused = innbox(
        "token",
        "--member",
        "7",
        data=tmp_path,
        environment=environment | {"ENVIRONMENT": "production"},
    )
    assert refused.returncode == 2
    assert "production" in refused.stderr


def test_the_sample_hotel_is_printed_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    sample = innbox("demo", "--sample", data=tmp_path)
    assert "[season]" in sample.stdout
    broken = tmp_path / "hotel.toml"
    broken.write_text(sample.stdout.replace("capacity = 12", "capacity = -1"))
    refused = innbox("demo", "--hotel", str(broken), data=tmp_path)
    assert refused.returncode == 2
    assert "capacity" in refused.stderr


def test_health_of_nobody_is_an_error(tmp_path: Path) -> None:
    assert innbox("health", "http://127.0.0.1:1", data=tmp_path).returncode == 2


def test_topic_creation_can_be_repeated(settings: Settings) -> None:
    assert not any(topic.created for topic in create_topics(settings))


def test_dead_letters_are_listed_shown_retried_and_discarded(
    tmp_path: Path, engine: Engine, environment: dict[str, str]
) -> None:
    """A good message that was set aside once can be applied; poison stays open until discarded."""

    def letters(*command: str) -> subprocess.CompletedProcess[str]:
        return innbox("dead-letters", *command, "--json", data=tmp_path, environment=environment)

    good = b'{"reservationId":1,"roomId":7,"checkInDate":"2026-12-24","checkOutDate":"2026-12-27"}'
    with engine.begin() as connection:
        records = [
            Record(ROOM_RESERVE, 0, n, b"7", value, {}) for n, value in ((0, good), (1, b"x"))
        ]
        dead_letters.keep(connection, ROOMS_GROUP, [(record, "SET_ASIDE") for record in records])

    listed = json.loads(letters("list").stdout)["dead_letters"]
    applied, poison = (str(letter["id"]) for letter in listed)
    assert json.loads(letters("show", poison).stdout)["value"] == "x"

    retried = letters("retry", applied, poison)
    assert retried.returncode == 1
    outcome = json.loads(retried.stdout)["dead_letters"]
    assert outcome[applied] == "applied"
    assert "PoisonMessage" in outcome[poison]

    assert letters("discard", poison).returncode == 0
    assert letters("discard", poison).returncode == 1
    assert json.loads(letters("list").stdout)["dead_letters"] == []
    assert letters("show", "999").returncode == 2


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (["topics"], {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}),
        (["verify"], {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}),
        (["migrate", "--to", "nope"], {}),
        (["migrate"], {"DATABASE_URL": "mysql://nobody"}),
        (["migrate"], {"DATABASE_URL": "garbage"}),
    ],
)
def test_what_cannot_be_done_is_said_in_a_few_lines(
    tmp_path: Path, settings: Settings, command: list[str], environment: dict[str, str]
) -> None:
    """Brokers away, an unknown revision, another database's URL: exit code 2 and no traceback."""
    own = {"DATABASE_URL": settings.database_url, "JWT_KEY": "k" * 32}
    refused = innbox(*command, data=tmp_path, environment=own | environment)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert 0 < len(refused.stderr.splitlines()) < 10, refused.stderr


def test_a_token_needs_no_server(tmp_path: Path) -> None:
    signed = innbox("token", "--member", "7", data=tmp_path, environment={"JWT_KEY": "k" * 32})
    assert signed.returncode == 0
    assert signed.stdout.count(".") == 2
