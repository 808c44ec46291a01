"""The examples run as they stand, each as a program of its own, with real servers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from ops.local import Servers
from ops.ports import free_port
from outbox.testing import drain
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def database(empty_database_url: str) -> Engine:
    return create_engine(empty_database_url, poolclass=NullPool)


@pytest.fixture
def topic(servers: Servers) -> Iterator[str]:
    """A topic with one partition, so that its last message is the last one to be applied."""
    name = f"example-{uuid4()}"
    admin = AdminClient({"bootstrap.servers": servers.kafka_bootstrap_servers})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    yield name
    admin.delete_topics([name])[name].result(30)


def test_orders_that_are_taken_at_once_are_all_announced(empty_database_url: str) -> None:
    ended = run("asyncio_orders.py", empty_database_url)
    assert ended.splitlines() == [f'{{"order": {n}, "item": "tea"}}' for n in (1, 2, 3)]


def test_an_order_over_http_and_its_message_are_one(
    empty_database_url: str, database: Engine
) -> None:
    port = free_port()
    with running("fastapi_orm.py", empty_database_url, PORT=str(port)):
        url = f"http://127.0.0.1:{port}/orders"
        placed = eventually(lambda: post(url, {"item": "tea"}))
        assert placed is not None
        assert placed.status_code == 201
        assert placed.json() == {"id": 1, "item": "tea"}
        assert post(url, {}) is not None  # what is refused announces nothing
    messages = [(one.key, one.type, one.value) for one in drain(database)]
    assert messages == [("1", "order.placed", b'{"item":"tea","id":1}')]


def test_a_message_that_is_delivered_again_counts_once(
    empty_database_url: str, servers: Servers, database: Engine, topic: str
) -> None:
    """Repeated within a batch, in a later one, and from the beginning, to a group that forgot all."""
    tea, coffee = uuid4(), uuid4()
    where = {"KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap_servers, "TOPIC": topic}
    deliver(servers, topic, [("tea", tea), ("tea", tea), ("coffee", coffee)])
    with running("deduplicating_consumer.py", empty_database_url, **where, GROUP=f"{topic}-1"):
        eventually(lambda: sold(database) == {"tea": 1, "coffee": 1})
    deliver(servers, topic, [("tea", tea), ("cake", uuid4())])
    with running("deduplicating_consumer.py", empty_database_url, **where, GROUP=f"{topic}-2"):
        eventually(lambda: "cake" in sold(database))
    assert sold(database) == {"tea": 1, "coffee": 1, "cake": 1}


def test_the_tests_of_the_example_are_green(empty_database_url: str) -> None:
    ended = run(
        "-m", empty_database_url, "pytest", "-q", "-p", "no:cacheprovider", "test_orders.py"
    )
    assert "5 passed" in ended


@pytest.mark.unit
def test_every_example_is_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text()
    assert [each.name for each in EXAMPLES.glob("*.py") if f"({each.name})" not in index] == []


def run(program: str, url: str, *words: str) -> str:
    """Run an example, which ends well and complains of nothing."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", program, *words],
        cwd=EXAMPLES,
        env=environment(url),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    return ended.stdout


@contextmanager
def running(program: str, url: str, **variables: str) -> Iterator[None]:
    """Keep an example running, then end it as Ctrl-C does."""
    with subprocess.Popen(
        [sys.executable, program], cwd=EXAMPLES, env=environment(url) | variables
    ) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def environment(url: str) -> dict[str, str]:
    return os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(ROOT)}


def post(url: str, content: dict[str, str]) -> httpx.Response | None:
    """Return the answer, or None while there is no server yet."""
    try:
        return httpx.post(url, json=content)
    except httpx.ConnectError:
        return None


def deliver(servers: Servers, topic: str, orders: list[tuple[str, UUID]]) -> None:
    producer = Producer({"bootstrap.servers": servers.kafka_bootstrap_servers})
    for item, message_id in orders:
        headers: dict[str, str | bytes | None] = {"ce_id": str(message_id)}
        producer.produce(topic, f'{{"item": "{item}"}}'.encode(), headers=headers)
    assert producer.flush(30) == 0


def sold(database: Engine) -> dict[str, int]:
    with database.connect() as connection:
        if not connection.execute(text("SELECT to_regclass('sold')")).scalar():
            return {}
        return {row.item: row.orders for row in connection.execute(text("SELECT * FROM sold"))}
