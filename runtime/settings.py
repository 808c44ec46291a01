"""Settings: read once from the environment, complained about once, all problems together.

Each process builds one frozen `Settings` at its entry point and passes on what others need; nothing
reads the environment later. Names in the environment are the fields' in capitals.
"""

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from innbox_process.config import LogFormat, LogLevel, SettingsError, client_properties

__all__ = ["Context", "RelayMode", "Role", "Settings", "SettingsError", "load_settings"]

Context = Literal["reservations", "rooms"]
RelayMode = Literal["at-least-once", "exactly-once"]
# Each of the four processes does all it does in a role of its own.
Role = Literal["innbox_api", "innbox_relay", "innbox_rooms", "innbox_results"]

# What SQLAlchemy reads, which takes longer to import than all that `innbox token` does.
_DATABASE_URL = re.compile(
    r"postgresql(\+psycopg)?://([^:/]*(:[^@]*)?@)?(\[[^/?]+\]|[^/:?]*)(:\d*)?(/[^?]*)?(\?.*)?"
)


def _usable(url: str) -> str:
    """Check what an engine could be made of; empty is for "the default"."""
    if url and not _DATABASE_URL.fullmatch(url):
        raise ValueError("not of the form postgresql+psycopg://user:password@host:port/database")
    # By itself SQLAlchemy 2.0 takes psycopg2 for it.
    return re.sub("^postgresql://", "postgresql+psycopg://", url)


def _split(value: object) -> object:
    """Split what the environment has in one line, by commas."""
    if not isinstance(value, str):
        return value
    return tuple(word for part in value.split(",") if (word := part.strip()))


def _network(address: str) -> str:
    ip_network(address)  # uvicorn would take what is none for a name, and never find it
    return address


def _one(processes: int) -> int:
    if processes > 1:
        raise ValueError(
            "removed: start as many `innbox api` as you need, on one port with API_REUSE_PORT=true or "
            "behind a load balancer, and unset API_PROCESSES"
        )
    return processes


def _none(wait_ms: float) -> float:
    if wait_ms:
        raise ValueError("removed: busy consumers let messages gather by themselves; see GATHER_MS")
    return wait_ms


DatabaseUrl = Annotated[str, AfterValidator(_usable)]
NoWait = Annotated[float, AfterValidator(_none)]
OneProcess = Annotated[int, AfterValidator(_one)]
Network = Annotated[str, AfterValidator(_network)]
PublicKeyAlgorithm = Literal["RS256", "ES256", "EdDSA"]
Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """All that the processes can be told from outside. Durations carry their unit in their name."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    # Where things are.
    database_url: DatabaseUrl = Field(
        repr=False, description="postgresql+psycopg://user:password@host:port/database"
    )
    reservations_database_url: DatabaseUrl = Field(default="", repr=False)
    rooms_database_url: DatabaseUrl = Field(default="", repr=False)
    kafka_bootstrap_servers: str = Field(description="host:port, separated by commas")
    kafka_properties: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="JSON of librdkafka properties (security, say)",
    )
    kafka_prefix: str = Field(
        default="",
        # What may be in a topic's name, with room for the name: with another prefix no topic can exist.
        pattern=r"^[a-zA-Z0-9._-]{0,200}$",
        description="before every topic and group, where a cluster is shared",
    )

    # The processes.
    environment: Literal["development", "production"] = "development"
    host: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=0, le=65535)
    api_reuse_port: bool = Field(default=False, description="several `innbox api` share the port")
    api_processes: OneProcess = Field(default=1, description="removed; only 1 is accepted")
    health_port: int = Field(default=0, ge=0, le=65535, description="live, ready, metrics; 0: any")
    log_format: LogFormat = "json"
    log_level: LogLevel = "INFO"
    shutdown_s: float = Field(default=10.0, gt=0, description="bound on a graceful stop")

    # The database.
    pool_size: int = Field(default=10, ge=1, le=200)
    pool_timeout_s: float = Field(default=2.0, gt=0)
    statement_timeout_s: float = Field(default=10.0, gt=0)
    behind_pgbouncer: bool = Field(default=False, description="no prepared statements")
    database_roles: bool = Field(default=True, description="each process takes a role of its own")

    # The API.
    jwt_key: SecretStr = SecretStr("")
    jwt_algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] = "HS256"
    jwt_audience: str = "innbox"
    jwt_issuer: str = "innbox"
    jwt_leeway_s: float = Field(default=10.0, ge=0, le=300, description="clocks differ by so much")
    jwks_url: str = Field(default="", description="of the issuer's keys; empty: JWT_KEY is the key")
    jwks_algorithms: Listed[PublicKeyAlgorithm] = Field(
        default=("RS256", "ES256", "EdDSA"), min_length=1
    )
    jwks_refresh_s: float = Field(default=300.0, gt=0)
    jwks_cooldown_s: float = Field(default=10.0, gt=0, description="between askings for a new kid")
    jwks_stale_s: float = Field(default=86_400.0, ge=0, description="keys outlive their issuer so")
    allowed_hosts: Listed[str] = Field(default=("*",), min_length=1)
    trusted_proxies: Listed[Network] = Field(
        default=(), description="believed about the client's address"
    )
    requests_per_s_max: float = Field(default=50.0, gt=0, description="of a member, per process")
    requests_burst_max: int = Field(default=100, ge=1)
    body_bytes_max: int = Field(default=65_536, ge=1_024)
    bulk_bytes_max: int = Field(default=268_435_456, ge=1_024, description="of a bulk load")
    nights_per_stay_max: int = Field(default=30, ge=1, le=365)
    days_in_advance_max: int = Field(default=730, ge=1)
    page_size_max: int = Field(default=100, ge=1)
    wait_s_max: float = Field(default=30.0, ge=0)
    heartbeat_s: float = Field(default=15.0, gt=0, description="between comments in a stream")
    streams_max: int = Field(default=2_000, ge=1, description="event streams, per process")
    streams_per_member_max: int = Field(default=20, ge=1, description="of them, per process")
    pending_per_member_max: int = Field(
        default=20, ge=1, description="reservations of a member that wait for an answer"
    )
    idempotency_days: float = Field(default=7.0, gt=0)

    # The relay and the outbox.
    relay_context: Context = "reservations"
    relay_mode: RelayMode = "at-least-once"
    lease_s: float = Field(default=10.0, ge=0.5, description="a standby takes over after this")
    poll_s_max: float = Field(default=2.0, gt=0, description="idle wait when no doorbell rings")
    relay_chunk: int = Field(default=2_000, ge=1, le=100_000, description="messages per batch")
    doorbell_ms: float = Field(default=3.0, ge=0, description="at most one NOTIFY in this time")
    gather_ms: float = Field(
        default=25.0, ge=0, le=1_000, description="a busy loop lets work gather for so long at most"
    )
    retention_days: float = Field(default=7.0, gt=0)
    partitions_ahead_days: int = Field(default=7, ge=1)
    housekeeping_s: float = Field(default=300.0, gt=0)

    # The consumers.
    batch_size_max: int = Field(default=500, ge=1, le=10_000)
    batch_wait_ms: NoWait = Field(default=0.0, description="removed; only 0 is accepted")
    consumer_session_s: float = Field(
        default=6.0, ge=6, description="a killed consumer's partitions are given away after this"
    )
    poison_attempts: int = Field(default=3, ge=1)
    redrive_after_s: float = Field(default=60.0, gt=0)
    redrive_every_s: float = Field(default=15.0, gt=0)

    # The topics.
    topic_partitions: int = Field(default=6, ge=1)
    topic_replication: int = Field(default=1, ge=1)
    topic_retention_hours: int = Field(default=168, ge=1)

    @model_validator(mode="after")
    def _contexts_default_to_one_database(self) -> Self:
        for context in get_args(Context):
            if not getattr(self, f"{context}_database_url"):
                # A frozen model is set by the back door, once, before anybody sees it.
                object.__setattr__(self, f"{context}_database_url", self.database_url)
        return self

    def database_of(self, context: Context) -> str:
        """Return the URL of the context's database."""
        return str(getattr(self, f"{context}_database_url"))

    @property
    def databases(self) -> dict[str, list[Context]]:
        """The distinct databases, each with the contexts that live in it."""
        found: dict[str, list[Context]] = {}
        for context in get_args(Context):
            found.setdefault(self.database_of(context), []).append(context)
        return found

    @property
    def kafka(self) -> dict[str, Any]:
        """What every Kafka client of innbox starts from."""
        return client_properties(
            self.kafka_bootstrap_servers, self.kafka_properties, client_id="innbox"
        )


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401 - any field's value
    """Read the environment; raises `SettingsError` with all that is wrong with it."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = [
            f"  {'.'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise SettingsError("these settings are not usable:\n" + "\n".join(problems)) from error
