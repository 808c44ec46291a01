"""Count the orders of each item, and each order once, however often its message is delivered.

A relay that crashes, a replay and a consumer that restarts deliver messages again. So the id of each
message is written in the same transaction as its effect, and a message whose id is there already has
had its effect. Kafka's offsets are committed after the database; if they get lost, messages come again.

    python examples/deduplicating_consumer.py

DATABASE_URL names a database, KAFKA_BOOTSTRAP_SERVERS the brokers, TOPIC the topic; Ctrl-C ends it.
"""

import json
import os
from contextlib import suppress
from uuid import UUID

from confluent_kafka import Consumer, Message
from sqlalchemy import Connection, Engine, create_engine, text

# Ids may be forgotten once the brokers no longer keep their messages: by `seen_at`, once a day, say.
TABLES = """
    CREATE TABLE IF NOT EXISTS seen (id uuid PRIMARY KEY, seen_at timestamptz DEFAULT now());
    CREATE TABLE IF NOT EXISTS sold (item text PRIMARY KEY, orders bigint NOT NULL);
"""
IS_NEW = text("INSERT INTO seen (id) VALUES (:id) ON CONFLICT DO NOTHING RETURNING id")
COUNT = text("""
    INSERT INTO sold (item, orders) VALUES (:item, 1)
    ON CONFLICT (item) DO UPDATE SET orders = sold.orders + 1
""")


def apply(connection: Connection, record: Message) -> None:
    """Apply a message, unless it has been applied."""
    if connection.execute(IS_NEW, {"id": id_of(record)}).first():
        order = json.loads(record.value() or b"")
        connection.execute(COUNT, {"item": order["item"]})


def id_of(record: Message) -> UUID:
    """Return the message's id, which is the same on each delivery."""
    value = dict(record.headers() or [])["ce_id"]
    assert isinstance(value, bytes)
    return UUID(value.decode())


def consume(consumer: Consumer, engine: Engine) -> None:
    """Apply batches, each in a transaction, until Ctrl-C."""
    while True:
        polled = consumer.consume(num_messages=500, timeout=1.0)
        records = [
            record for record in polled if not record.error()
        ]  # the client retries by itself
        if not records:
            continue
        with engine.begin() as connection:
            for record in records:
                apply(connection, record)
        consumer.commit(asynchronous=False)


def main() -> None:
    engine = create_engine(os.environ["DATABASE_URL"])
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLES)
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": os.environ.get("GROUP", "sold"),
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,  # an offset that is committed before its effect loses it
        }
    )
    consumer.subscribe([os.environ.get("TOPIC", "orders")])
    with suppress(KeyboardInterrupt):
        consume(consumer, engine)
    consumer.close()
    engine.dispose()


if __name__ == "__main__":
    main()
