"""What the relay and an audit are told, from innbox's settings."""

from ops.topics import topics_of
from relay.audit.databases import Sources
from relay.config import RelayConfig
from relay.databases import Database
from runtime.settings import Context, Settings


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
        gather_ms=settings.gather_ms,
        retention_days=settings.retention_days,
        partitions_ahead_days=settings.partitions_ahead_days,
        housekeeping_s=settings.housekeeping_s,
        role="innbox_relay",
        database=settings,
        host=settings.host,
        health_port=settings.health_port,
        shutdown_s=settings.shutdown_s,
    )


def databases_of(settings: Settings) -> list[Database]:
    """Return innbox's databases, each by the names of the contexts that live in it."""
    return [Database(tuple(contexts), url) for url, contexts in settings.databases.items()]


def audit_sources(settings: Settings, context: Context | None = None) -> Sources:
    """Return what an audit judges: all of innbox's outboxes, or that of one context."""
    known = databases_of(settings)
    chosen = tuple(one for one in known if context is None or context in one.names)
    return Sources(
        chosen,
        settings.kafka,
        settings.kafka_prefix,
        others=tuple(one for one in known if one not in chosen),
        database=settings,
    )
