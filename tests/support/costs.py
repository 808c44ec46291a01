"""What the API spends on those who wait: sessions and round trips of the database, and threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from api.reservations.watchers import Subscription
from domain.reservations import reading
from runtime.pipeline import PipelinePool, Rows, Statement


def note_reads(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Return what will be the reads of what is new: the reservations of each."""
    asked: list[set[int]] = []
    execute = PipelinePool.execute

    async def execute_and_note(
        pool: PipelinePool, statements: Sequence[Statement], **named: Any
    ) -> list[Rows]:
        for sql, binds in statements:
            if sql is reading.SINCE:
                asked.append({int(id_) for id_ in str(binds["ids"]).strip("{}").split(",")})
        return await execute(pool, statements, **named)

    monkeypatch.setattr(PipelinePool, "execute", execute_and_note)
    return asked


def sessions(engine: Engine) -> int:
    """Return how many connections the API has, its listener's among them."""
    query = text("""
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name LIKE 'innbox-api%' AND datname = current_database()
    """)
    with engine.connect() as connection:
        return int(connection.scalar(query) or 0)


def note_waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what will be the reservations that are waited for, each time that a wait begins."""
    waits: list[int] = []
    heard = Subscription.heard

    async def heard_and_note(subscription: Subscription, deadline: float) -> bool:
        waits.append(subscription.reservation_id)
        return await heard(subscription, deadline)

    monkeypatch.setattr(Subscription, "heard", heard_and_note)
    return waits


def note_tasks_of_threads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what will be the tasks that the API's event loop gives to threads."""
    tasks: list[object] = []
    submit = ThreadPoolExecutor.submit

    def submit_and_note(pool: ThreadPoolExecutor, task: Any, /, *given: Any, **named: Any) -> Any:
        if pool._thread_name_prefix == "api":
            tasks.append(task)
        return submit(pool, task, *given, **named)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_and_note)
    return tasks
