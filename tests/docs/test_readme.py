"""The first screen of the README: its code runs as it stands, and its message is there to be relayed."""

import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import outbox
import outbox.schema
from outbox.testing import drain

ROOT = Path(__file__).parents[2]


def test_the_code_runs_as_it_stands(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        for statement in outbox.schema.upgrades():
            connection.exec_driver_sql(statement)
        connection.execute(text("CREATE TABLE orders (id serial PRIMARY KEY, item text)"))
        outbox.declare_topics(connection, {"orders": 1_000})
    engine.dispose()

    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    names: dict[str, object] = {}
    exec(code, names)
    their_doorbell, their_engine = names["doorbell"], names["engine"]
    assert isinstance(their_doorbell, outbox.Doorbell)

    messages = [(one.topic, one.key, one.type, one.value) for one in drain(engine)]
    assert messages == [("orders", "1", "order.placed", b'{"item": "tea"}')]
    their_doorbell.close()
    their_engine.dispose()  # type: ignore[attr-defined] # a name of the README's
    engine.dispose()
