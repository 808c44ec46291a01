"""The library's page: its program runs as it stands, and what it names is there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

import outbox
import outbox.schema.operations
from outbox import admin, tables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text()
EXAMPLE = ROOT / "examples" / "orders.py"
ROUTER = "transforms.outbox."


def test_the_example_runs_as_it_stands(empty_database_url: str) -> None:
    environment = os.environ | {"DATABASE_URL": empty_database_url, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        'orders 1 order.placed {"order": 1, "item": "tea"}',
        'orders 2 order.placed {"order": 2, "item": "coffee"}',
    ]


@pytest.mark.unit
def test_the_page_shows_the_example_word_for_word() -> None:
    assert f"```python\n{EXAMPLE.read_text()}```" in PAGE


@pytest.mark.unit
def test_the_page_upgrades_to_the_latest_version() -> None:
    assert f"    upgrade_outbox({outbox.schema.LATEST})  # later" in PAGE


@pytest.mark.unit
def test_every_column_that_debezium_is_told_of_exists() -> None:
    """And every one without which a message cannot be read is told of."""
    configuration = connector()
    fields = [
        value
        for name, value in configuration.items()
        if name.startswith(f"{ROUTER}table.field.") or name == f"{ROUTER}route.by.field"
    ]
    placed = configuration[f"{ROUTER}table.fields.additional.placement"].split(",")
    fields += [column.partition(":")[0] for column in placed]
    assert set(fields) <= set(tables.message.columns.keys())
    assert {"message_id", "topic", "key", "value", "headers"} <= set(fields)
    assert configuration["table.include.list"] == tables.message.fullname


def test_the_publication_has_the_log_as_one_table(engine: Engine) -> None:
    """Whatever its partitions are, now and later; under the name that the connector knows."""
    (statement,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    with engine.begin() as connection:
        connection.execute(text(statement))
        (now,) = connection.execute(text("SELECT now()")).one()
        admin.ensure_partitions(connection, now.date(), days_ahead=1)
        published = connection.execute(
            text("SELECT pubname, schemaname || '.' || tablename FROM pg_publication_tables")
        )
        assert [tuple(row) for row in published] == [
            (connector()["publication.name"], tables.message.fullname)
        ]


def connector() -> dict[str, str]:
    (configuration,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    parsed: dict[str, str] = json.loads(configuration)
    return parsed
