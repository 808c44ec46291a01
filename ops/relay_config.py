"""What a relay is told, from innbox's settings."""

from innbox_process.config import DatabaseConfig
from ops.topics import topics_of
from relay.config import RelayConfig
from runtime.settings import Context, Role, Settings

_ROLE: Role = "innbox_relay"


def relay_config(settings: Settings, context: Context | None = None) -> RelayConfig:
    """Return the configuration of the relay of a context's database; by default RELAY_CONTEXT's."""
    chosen = context or settings.relay_context
    return RelayConfig(
        database_url=settings.database_of(chosen),
        kafka=settings.kafka,
        topics=topics_of(settings, chosen),
        topic_prefix=settings.kafka_prefix,
        mode=settings.relay_mode,
        lease_s=settings.lease_s,
        poll_s_max=settings.poll_s_max,
        chunk=settings.relay_chunk,
        retention_days=settings.retention_days,
        partitions_ahead_days=settings.partitions_ahead_days,
        housekeeping_s=settings.housekeeping_s,
        role=_ROLE,
        database=database_config(settings),
        host=settings.host,
        health_port=settings.health_port,
        shutdown_s=settings.shutdown_s,
    )


def database_config(settings: Settings) -> DatabaseConfig:
    """Return how innbox's processes talk to Postgres."""
    return DatabaseConfig(
        pool_size=settings.pool_size,
        pool_timeout_s=settings.pool_timeout_s,
        statement_timeout_s=settings.statement_timeout_s,
        behind_pgbouncer=settings.behind_pgbouncer,
        database_roles=settings.database_roles,
    )
