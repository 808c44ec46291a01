"""Measuring: rates of two contenders taken in turn, and what to say about them."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from ops.migrate import migrate
from runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rates of ours and of the baseline, each in messages per second, one per round."""

    name: str
    baseline: str
    messages: int
    ours_per_s: list[float]
    baseline_per_s: list[float]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return median(self.ours_per_s) / median(self.baseline_per_s)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "ratio": round(self.ratio, 3),
            "ours_per_s_median": round(median(self.ours_per_s)),
            "baseline_per_s_median": round(median(self.baseline_per_s)),
            "machine": machine(),
        }


def rate(messages: int, work: Callable[[], object]) -> float:
    """Return messages per second of a piece of work."""
    started_at = time.perf_counter()
    work()
    return messages / (time.perf_counter() - started_at)


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


@contextmanager
def scratch(settings: Settings) -> Iterator[Settings]:
    """The same settings, but for a migrated database of the benchmark's own, gone at the end."""
    with _scratch_database(settings.database_url) as url:
        migrate(url)
        yield settings.model_copy(
            update={
                "database_url": url,
                "reservations_database_url": url,
                "rooms_database_url": url,
            }
        )


@contextmanager
def _scratch_database(url: str) -> Iterator[str]:
    name = f"innbox_bench_{os.getpid()}"
    admin = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
