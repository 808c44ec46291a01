"""Take orders, and tell the world: the outbox in one file, with a loop that prints for a relay."""

import json
import os

from sqlalchemy import Engine, create_engine, text

import outbox
import outbox.schema
from outbox import reader


def prepare(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in outbox.schema.upgrades():
            connection.exec_driver_sql(statement)
        connection.execute(text("CREATE TABLE orders (id serial PRIMARY KEY, item text)"))
        outbox.declare_topics(connection, {"orders": 100_000})


def place(engine: Engine, item: str) -> None:
    with engine.begin() as connection:
        insert = text("INSERT INTO orders (item) VALUES (:item) RETURNING id")
        order = connection.execute(insert, {"item": item}).scalar_one()
        value = json.dumps({"order": order, "item": item}).encode()
        outbox.append(connection, [outbox.Message("orders", str(order), "order.placed", value)])


def relay(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        reader.prepare_session(connection)
        if (shard := reader.claim(connection, "printer", lease_s=30)) is None:
            return
        while (batch := reader.read(connection, shard.cursor, shard.hashes, limit=100)).rows:
            for _, topic, key, value, headers, _ in batch.rows:
                print(topic, key, reader.decode_headers(headers)["ce_type"], value.decode())
            shard = reader.save(connection, shard, batch.cursor, lease_s=30)
        reader.release_shard(connection, shard)


if __name__ == "__main__":
    engine = create_engine(os.environ["DATABASE_URL"])
    prepare(engine)
    for item in ("tea", "coffee"):
        place(engine, item)
    relay(engine)
    engine.dispose()
