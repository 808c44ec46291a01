"""What `innbox-relay` is told by its environment; all problems are reported together."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from innbox_process.config import (
    DatabaseConfig,
    LogConfig,
    LogFormat,
    LogLevel,
    SettingsError,
    client_properties,
)
from relay.config import Mode, RelayConfig
from relay.databases import Database

_Value = TypeVar("_Value")

_URL = re.compile(r"postgresql(\+psycopg)?://\S+")
# What may be in a topic's name, and short enough for the name behind it.
_PREFIX = re.compile(r"[a-zA-Z0-9._-]{0,200}")

# Shown by `innbox-relay run --help`, and looked up here.
VARIABLES = {
    "DATABASE_URL": "postgresql+psycopg://user:password@host:port/database",
    "KAFKA_BOOTSTRAP_SERVERS": "host:port, separated by commas",
    "KAFKA_PROPERTIES": "JSON of librdkafka properties, security for example",
    "KAFKA_PREFIX": "before every topic and transactional id, where a cluster is shared",
    "TOPICS": "names, separated by commas, without the prefix; a relay needs them to be ready",
    "RELAY_MODE": "at-least-once or exactly-once [at-least-once]",
    "LEASE_S": "a standby takes over after this [10]",
    "POLL_S_MAX": "the idle wait when no doorbell rings [2]",
    "RELAY_CHUNK": "messages in a batch, at most [2000]",
    "RETENTION_DAYS": "published messages are kept for so long [7]",
    "PARTITIONS_AHEAD_DAYS": "daily partitions made ahead [7]",
    "HOUSEKEEPING_S": "between two looks after the partitions [300]",
    "DATABASE_ROLE": "a role that the relay takes on connecting; none if it is not set",
    "STATEMENT_TIMEOUT_S": "of Postgres [10]",
    "HOST": "of the health server [127.0.0.1]",
    "HEALTH_PORT": "live, ready, metrics; 0 is any free port [0]",
    "SHUTDOWN_S": "bound on a graceful stop [10]",
    "LOG_FORMAT": "json or console [json]",
    "LOG_LEVEL": "DEBUG, INFO, WARNING or ERROR [INFO]",
}


@dataclass(slots=True)
class _Reader:
    """Reads variables, and collects what is wrong with them."""

    environment: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def read(
        self, name: str, default: _Value, parse: Callable[[str], _Value], wanted: str
    ) -> _Value:
        given = self.environment.get(name, "").strip()
        if not given:
            return default
        try:
            return parse(given)
        except (ValueError, TypeError):
            self.problems.append(f"{name}: {wanted}, and not {_quoted(name, given)}")
            return default

    def required(self, name: str) -> str:
        given = self.environment.get(name, "").strip()
        if not given:
            self.problems.append(f"{name}: not set; it is {VARIABLES[name]}")
        return given

    def text(self, name: str, default: str = "") -> str:
        return self.environment.get(name, "").strip() or default

    def number(self, name: str, default: float, *, least: float) -> float:
        return self.read(name, default, _at_least(float, least), f"a number of at least {least:g}")

    def whole(self, name: str, default: int, *, least: int, most: int) -> int:
        parse = _at_least(int, least, most)
        return self.read(name, default, parse, f"a whole number from {least} to {most}")

    def one_of(self, name: str, default: str, choices: Sequence[str]) -> Any:  # noqa: ANN401 - one of them
        return self.read(name, default, _among(choices), " or ".join(choices))

    def check(self) -> None:
        if self.problems:
            lines = "\n".join(f"  {problem}" for problem in self.problems)
            raise SettingsError(f"these settings are not usable:\n{lines}")


class EnvironmentDeployment:
    """One database and one cluster, as the environment names them."""

    command = "innbox-relay"

    def databases(self) -> Sequence[Database]:
        reader = _Reader(os.environ)
        url = reader.required("DATABASE_URL")
        if url and not _URL.fullmatch(url):
            reader.problems.append(f"DATABASE_URL: not of the form {VARIABLES['DATABASE_URL']}")
        reader.check()
        return [Database(("outbox",), _with_psycopg(url))]

    def relay_config(self, database: Database, *, asks_kafka: bool = True) -> RelayConfig:
        reader = _Reader(os.environ)
        config = _config(reader, database.url, asks_kafka=asks_kafka)
        reader.check()
        return config


def log_config() -> LogConfig:
    """Return how the environment wants the log."""
    reader = _Reader(os.environ)
    found = LogConfig(
        reader.one_of("LOG_FORMAT", "json", get_args(LogFormat)),
        reader.one_of("LOG_LEVEL", "INFO", get_args(LogLevel)),
    )
    reader.check()
    return found


def _config(reader: _Reader, url: str, *, asks_kafka: bool) -> RelayConfig:
    servers = (reader.required if asks_kafka else reader.text)("KAFKA_BOOTSTRAP_SERVERS")
    properties: dict[str, str] = reader.read(
        "KAFKA_PROPERTIES", {}, _properties, "an object of JSON"
    )
    names = reader.text("TOPICS").split(",")
    return RelayConfig(
        database_url=url,
        kafka=client_properties(servers, properties, client_id="innbox-relay"),
        topics=tuple(name.strip() for name in names if name.strip()),
        topic_prefix=reader.read("KAFKA_PREFIX", "", _prefix, "up to 200 of a-z A-Z 0-9 . _ -"),
        mode=reader.one_of("RELAY_MODE", "at-least-once", get_args(Mode)),
        lease_s=reader.number("LEASE_S", 10.0, least=0.5),
        poll_s_max=reader.number("POLL_S_MAX", 2.0, least=0.05),
        chunk=reader.whole("RELAY_CHUNK", 2_000, least=1, most=100_000),
        retention_days=reader.number("RETENTION_DAYS", 7.0, least=0.01),
        partitions_ahead_days=reader.whole("PARTITIONS_AHEAD_DAYS", 7, least=1, most=366),
        housekeeping_s=reader.number("HOUSEKEEPING_S", 300.0, least=0.1),
        role=reader.text("DATABASE_ROLE"),
        database=DatabaseConfig(
            statement_timeout_s=reader.number("STATEMENT_TIMEOUT_S", 10.0, least=0.1)
        ),
        host=reader.text("HOST", "127.0.0.1"),
        health_port=reader.whole("HEALTH_PORT", 0, least=0, most=65_535),
        shutdown_s=reader.number("SHUTDOWN_S", 10.0, least=0.1),
    )


def _at_least(
    parse: Callable[[str], _Value], least: float, most: float = float("inf")
) -> Callable[[str], _Value]:
    def parsed(given: str) -> _Value:
        value = parse(given)
        if not least <= value <= most:  # type: ignore[operator] # int or float
            raise ValueError(given)
        return value

    return parsed


def _among(choices: Sequence[str]) -> Callable[[str], str]:
    def parsed(given: str) -> str:
        if given not in choices:
            raise ValueError(given)
        return given

    return parsed


def _properties(given: str) -> dict[str, str]:
    found = json.loads(given)
    if not isinstance(found, dict):
        raise TypeError(given)
    return {str(name): str(value) for name, value in found.items()}


def _prefix(given: str) -> str:
    if not _PREFIX.fullmatch(given):
        raise ValueError(given)
    return given


def _quoted(name: str, given: str) -> str:
    """Show what was given, unless there may be a password in it."""
    return "what it is" if name == "KAFKA_PROPERTIES" else repr(given)


def _with_psycopg(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
