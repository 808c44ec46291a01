"""What `innbox-relay` is told by its environment; all problems are reported together."""

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, get_args

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

_URL = r"postgresql(\+psycopg)?://\S+"
# What may be in a topic's name, and short enough for the name behind it.
_PREFIX = r"[a-zA-Z0-9._-]{0,200}"


@dataclass(frozen=True, slots=True)
class Variable:
    """What is said of a variable, and how it is read: `parse` raises for what is not `wanted`."""

    help: str
    parse: Callable[[str], Any] = str
    wanted: str = ""
    is_secret: bool = False  # there may be a password in it


def _number(help_: str, *, least: float) -> Variable:
    return Variable(help_, _within(float, least), f"a number of at least {least:g}")


def _whole(help_: str, *, least: int, most: int) -> Variable:
    return Variable(help_, _within(int, least, most), f"a whole number from {least} to {most}")


def _within(
    parse: Callable[[str], float], least: float, most: float = float("inf")
) -> Callable[[str], float]:
    def parsed(given: str) -> float:
        value = parse(given)
        if not least <= value <= most:
            raise ValueError(given)
        return value

    return parsed


def _one_of(help_: str, choices: Sequence[str]) -> Variable:
    return Variable(help_, _matching("|".join(choices)), " or ".join(choices))


def _matching(pattern: str) -> Callable[[str], str]:
    def parsed(given: str) -> str:
        if not re.fullmatch(pattern, given):
            raise ValueError(given)
        return given

    return parsed


def _properties(given: str) -> dict[str, str]:
    found = json.loads(given)
    if not isinstance(found, dict):
        raise TypeError(given)
    return {str(name): str(value) for name, value in found.items()}


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


_URL_FORM = "postgresql+psycopg://user:password@host:port/database"
# Shown by `innbox-relay run --help`. The defaults in brackets are those of `RelayConfig`.
VARIABLES = {
    "DATABASE_URL": Variable(_URL_FORM, _matching(_URL), _URL_FORM, is_secret=True),
    "KAFKA_BOOTSTRAP_SERVERS": Variable("host:port, separated by commas"),
    "KAFKA_PROPERTIES": Variable(
        "JSON of librdkafka properties, security for example",
        _properties,
        "an object of JSON",
        is_secret=True,
    ),
    "KAFKA_PREFIX": Variable(
        "before every topic and transactional id, where a cluster is shared",
        _matching(_PREFIX),
        "up to 200 of a-z A-Z 0-9 . _ -",
    ),
    "TOPICS": Variable(
        "names, separated by commas, without the prefix; a relay needs them to be ready", _names
    ),
    "RELAY_MODE": _one_of("at-least-once or exactly-once [at-least-once]", get_args(Mode)),
    "LEASE_S": _number("a standby takes over after this [10]", least=0.5),
    "POLL_S_MAX": _number("the idle wait when no doorbell rings [2]", least=0.05),
    "RELAY_CHUNK": _whole("messages in a batch, at most [2000]", least=1, most=100_000),
    "GATHER_MS": _number("a busy relay lets messages gather for so long at most [25]", least=0),
    "RETENTION_DAYS": _number("published messages are kept for so long [7]", least=0.01),
    "PARTITIONS_AHEAD_DAYS": _whole("daily partitions made ahead [7]", least=1, most=366),
    "HOUSEKEEPING_S": _number("between two looks after the partitions [300]", least=0.1),
    "DATABASE_ROLE": Variable("a role that the relay takes on connecting; none if it is not set"),
    "STATEMENT_TIMEOUT_S": _number("of Postgres [10]", least=0.1),
    "HOST": Variable("of the health server [127.0.0.1]"),
    "HEALTH_PORT": _whole("live, ready, metrics; 0 is any free port [0]", least=0, most=65_535),
    "SHUTDOWN_S": _number("bound on a graceful stop [10]", least=0.1),
    "LOG_FORMAT": _one_of("json or console [json]", get_args(LogFormat)),
    "LOG_LEVEL": _one_of("DEBUG, INFO, WARNING or ERROR [INFO]", get_args(LogLevel)),
}
_OF_THE_LOG = ("LOG_FORMAT", "LOG_LEVEL")
_OF_A_RELAY = [name for name in VARIABLES if name not in ("DATABASE_URL", *_OF_THE_LOG)]
# The field of `RelayConfig`, where it is not called as the variable is.
_FIELDS = {
    "KAFKA_PREFIX": "topic_prefix",
    "RELAY_MODE": "mode",
    "RELAY_CHUNK": "chunk",
    "DATABASE_ROLE": "role",
}


class EnvironmentDeployment:
    """One database and one cluster, as the environment names them."""

    command = "innbox-relay"

    def databases(self) -> Sequence[Database]:
        url: str = _read(["DATABASE_URL"], required=["DATABASE_URL"])["DATABASE_URL"]
        psycopg_url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        return [Database(("outbox",), psycopg_url)]

    def relay_config(self, database: Database, *, asks_kafka: bool = True) -> RelayConfig:
        given = _read(_OF_A_RELAY, required=["KAFKA_BOOTSTRAP_SERVERS"] if asks_kafka else [])
        servers = given.pop("KAFKA_BOOTSTRAP_SERVERS", "")
        properties = given.pop("KAFKA_PROPERTIES", {})
        timeout_s = given.pop("STATEMENT_TIMEOUT_S", DatabaseConfig().statement_timeout_s)
        return RelayConfig(
            database_url=database.url,
            kafka=client_properties(servers, properties, client_id="innbox-relay"),
            database=DatabaseConfig(statement_timeout_s=timeout_s),
            **{_FIELDS.get(name, name.lower()): value for name, value in given.items()},
        )


def log_config() -> LogConfig:
    """Return how the environment wants the log."""
    return LogConfig(**{name.lower(): value for name, value in _read(_OF_THE_LOG).items()})


def _read(names: Collection[str], required: Collection[str] = ()) -> dict[str, Any]:
    """Return the values of those variables that are set; raises `SettingsError`."""
    found, problems = {}, []
    for name in names:
        variable, given = VARIABLES[name], os.environ.get(name, "").strip()
        try:
            if given:
                found[name] = variable.parse(given)
            elif name in required:
                problems.append(f"{name}: not set; it is {variable.help}")
        except (ValueError, TypeError):
            shown = "what it is" if variable.is_secret else repr(given)
            problems.append(f"{name}: {variable.wanted}, and not {shown}")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise SettingsError(f"these settings are not usable:\n{lines}")
    return found
