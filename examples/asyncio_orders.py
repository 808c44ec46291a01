"""Take orders with asyncio: each is a task, with a transaction and a message of its own.

DATABASE_URL names an empty database:

    python examples/asyncio_orders.py
"""

import asyncio
import json
import os

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import outbox
import outbox.schema


def prepare(connection: Connection) -> None:
    """Make the tables; in a project of your own this is a migration."""
    for statement in outbox.schema.upgrades():
        connection.exec_driver_sql(statement)
    connection.execute(text("CREATE TABLE orders (id serial PRIMARY KEY, item text)"))
    outbox.declare_topics(connection, {"orders": 100_000})


async def place(engine: AsyncEngine, item: str) -> None:
    async with engine.begin() as connection:
        insert = text("INSERT INTO orders (item) VALUES (:item) RETURNING id")
        order = (await connection.execute(insert, {"item": item})).scalar_one()
        value = json.dumps({"order": order, "item": item}).encode()
        message = outbox.Message("orders", str(order), "order.placed", value)
        await outbox.append_async(connection, [message])


async def appended(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT value FROM outbox.message ORDER BY value"))
        return [value.decode() for value in rows.scalars()]


async def main() -> None:
    engine = create_async_engine(os.environ["DATABASE_URL"])
    async with engine.begin() as connection:
        await connection.run_sync(prepare)
    doorbell = outbox.install_doorbell(engine)  # wakes the relay after each commit

    await asyncio.gather(*(place(engine, "tea") for _ in range(3)))
    print(*await appended(engine), sep="\n")

    doorbell.close()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
