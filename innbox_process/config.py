"""What a process must be told: about its database, its brokers and its log.

Two are protocols, so that whatever holds a process' settings may hold these among others, each with a
value for those who have no settings of their own. It imports nothing: it is what a process reads first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# The role of a process that takes none: its waits are bounded, its rights are the login's own.
NO_ROLE = ""

LogFormat = Literal["json", "console"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class SettingsError(Exception):
    """The environment is not usable; the message lists every problem with the name to set."""


class DatabaseSettings(Protocol):
    """How to talk to Postgres; `DatabaseConfig` says what each means."""

    @property
    def pool_size(self) -> int: ...
    @property
    def pool_timeout_s(self) -> float: ...
    @property
    def statement_timeout_s(self) -> float: ...
    @property
    def behind_pgbouncer(self) -> bool: ...
    @property
    def database_roles(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """How to talk to Postgres, for a process that has no other settings."""

    pool_size: int = 10
    pool_timeout_s: float = 2.0
    statement_timeout_s: float = 10.0
    behind_pgbouncer: bool = False  # no prepared statements
    database_roles: bool = True  # whether a role that a process names is taken


class LogSettings(Protocol):
    """How to write the log."""

    @property
    def log_format(self) -> LogFormat: ...
    @property
    def log_level(self) -> LogLevel: ...


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How to write the log, for a process that has no other settings."""

    log_format: LogFormat = "json"
    log_level: LogLevel = "INFO"


# For a command: a person reads along, and is to hear what is waited for.
FOR_A_PERSON = LogConfig("console", "WARNING")


def client_properties(servers: str, given: Mapping[str, str], *, client_id: str) -> dict[str, Any]:
    """Return what every client of Kafka starts from; what was given wins."""
    return {"bootstrap.servers": servers, "client.id": client_id, **given}
