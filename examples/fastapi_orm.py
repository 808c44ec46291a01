"""An HTTP service with FastAPI and SQLAlchemy's ORM: an order and its message are one transaction.

DATABASE_URL names an empty database, PORT where to listen:

    python examples/fastapi_orm.py
    curl -X POST http://127.0.0.1:8001/orders -H 'Content-Type: application/json' -d '{"item": "tea"}'
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import outbox
import outbox.schema


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


class NewOrder(BaseModel):
    item: str


class PlacedOrder(NewOrder):
    id: int


def prepare(engine: Engine) -> None:
    """Make the tables; in a project of your own this is a migration."""
    with engine.begin() as connection:
        for statement in outbox.schema.upgrades():
            connection.exec_driver_sql(statement)
        Base.metadata.create_all(connection)
        outbox.declare_topics(connection, {"orders": 100_000})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine = create_engine(os.environ["DATABASE_URL"])
    prepare(engine)
    doorbell = outbox.install_doorbell(engine)
    app.state.sessions = sessionmaker(engine)
    yield
    doorbell.close()
    engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
def place(new: NewOrder, request: Request) -> PlacedOrder:
    # The transaction is here and not in a dependency with `yield`, which would end it after the
    # answer was sent: what is answered 201 must be committed.
    with request.app.state.sessions.begin() as session:
        order = Order(item=new.item)
        session.add(order)
        session.flush()  # the database draws the id
        placed = PlacedOrder(id=order.id, item=order.item)
        value = placed.model_dump_json().encode()
        outbox.append(session, [outbox.Message("orders", str(order.id), "order.placed", value)])
    return placed


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8001")))
