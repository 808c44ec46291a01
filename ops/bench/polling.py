"""A polling outbox: a table with a status, read by SKIP LOCKED, each row marked when it is sent.

innbox's own API and consumers write to this table in their transactions, and a relay of a few lines polls
it. No row is lost, each is written twice, and the relay asks again after a pause, since nothing wakes
it. Sent rows stay, as in innbox's log.

The benchmark starts `python -m ops.bench.polling api | relay | rooms | results`, the consumers with a
transaction and an offset commit for each message (`BATCH_SIZE_MAX=1`).
"""

from collections.abc import Iterable
from contextlib import ExitStack
from unittest.mock import patch

from confluent_kafka import Producer
from sqlalchemy import Connection, Engine, text

import outbox
from api.reservations.appending import AsyncDoorbell
from domain.messages import TOPICS, VALUE_BYTES_MAX
from innbox_process.brokers import KafkaProbe
from innbox_process.database import pooled_engine
from innbox_process.probing import DatabaseProbe, ready_process
from innbox_process.shutdown import stop_on_signals
from ops.cli import main
from outbox import Appendable
from relay.config import RelayConfig
from relay.publishing.producer import producer_properties

# Between two looks at an empty table, a common default.
POLL_S = 0.1
ROWS_MAX = 100

# The index has what is still to be sent, and nothing else.
TABLE = (
    text("""
        CREATE TABLE public.polling_outbox (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text NOT NULL DEFAULT 'NEW',
            message_id uuid NOT NULL, topic text NOT NULL, key text NOT NULL, value bytea NOT NULL,
            headers json NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
        )
    """),
    text("CREATE INDEX ON public.polling_outbox (id) WHERE status = 'NEW'"),
    text("GRANT INSERT ON public.polling_outbox TO innbox_api, innbox_rooms, innbox_results"),
    text("GRANT SELECT, UPDATE (status) ON public.polling_outbox TO innbox_relay"),
)
_INSERT_WITHIN = """
    INSERT INTO public.polling_outbox (message_id, topic, key, value, headers)
    SELECT CAST(:outbox_message_id AS uuid), CAST(:outbox_topic AS text), CAST(:outbox_key AS text),
           {value}, CAST(:outbox_headers AS json)
    FROM {rows}
"""
_INSERT = text(_INSERT_WITHIN.format(value="CAST(:value AS bytea)", rows="(SELECT) AS one"))
_TAKE = text("""
    SELECT id, topic, key, value, headers FROM public.polling_outbox
    WHERE status = 'NEW'
    ORDER BY id
    LIMIT :rows_max
    FOR UPDATE SKIP LOCKED
""")
_MARK = text("UPDATE public.polling_outbox SET status = 'SENT' WHERE id = :id")
_LIMITS = dict.fromkeys(TOPICS, VALUE_BYTES_MAX)


def append_within(*, value: str, rows: str) -> str:
    """Stand in for `outbox.append_within`."""
    return _INSERT_WITHIN.format(value=value, rows=rows)


def append(connection: Connection, messages: Iterable[Appendable]) -> None:
    """Stand in for `outbox.append`."""
    for message in messages:
        row = outbox.prepare(message, _LIMITS) | {"value": message.value}
        connection.execute(_INSERT, row)


def run(config: RelayConfig) -> None:
    """Stand in for `relay.process.run`: send what is new until SIGTERM."""
    database, url, role = config.database, config.database_url, config.role
    engine = pooled_engine(database, url, "relay", role)
    probe = DatabaseProbe(database, url, role, schema=[])
    kafka = KafkaProbe(config.kafka, config.needed_topics)
    producer = Producer(producer_properties(config.kafka))
    with (
        stop_on_signals(config.shutdown_s) as stop,
        ready_process(engine, probe, kafka, config.host, config.health_port, stop) as health,
    ):
        producer.list_topics(timeout=10)
        health.well(kafka.part)
        while not stop.is_set():
            health.beat()
            if not send_once(engine, producer, config.topic_prefix):
                stop.wait(POLL_S)
    engine.dispose()


def send_once(engine: Engine, producer: Producer, prefix: str) -> int:
    """Send new rows and mark them, in one transaction; returns how many."""
    with engine.begin() as connection:
        rows = connection.execute(_TAKE, {"rows_max": ROWS_MAX}).all()
        for row in rows:
            producer.produce(prefix + row.topic, row.value, row.key, headers=row.headers)
        producer.flush()
        for row in rows:
            connection.execute(_MARK, {"id": row.id})
    return len(rows)


if __name__ == "__main__":
    with ExitStack() as patched:
        for target, stand_in in {
            "api.app.append_within": append_within,
            "relay.process.run": run,
        }.items():
            patched.enter_context(patch(target, stand_in))
        patched.enter_context(patch.object(outbox, "append", append))
        # Nobody would hear it.
        patched.enter_context(patch.object(AsyncDoorbell, "ring", lambda _: None))
        main()
