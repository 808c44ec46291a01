"""Measuring: two contenders taken in turn, times of many events, and what to say about either.

In every comparison a ratio above one means that ours is the better one, whatever the unit.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

Unit = Literal["per_s", "p50_ms", "bytes"]
_TITLES: dict[Unit, str] = {"per_s": "a second", "p50_ms": "p50, ms", "bytes": "bytes"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours and the baseline in one unit, one value for each round; rates are the better the higher."""

    ours: str
    baseline: str
    unit: Unit
    of_ours: Sequence[float]
    of_baseline: Sequence[float]

    @property
    def ratio(self) -> float:
        ours, baseline = median(self.of_ours), median(self.of_baseline)
        return ours / baseline if self.unit == "per_s" else baseline / ours

    def as_dict(self) -> dict[str, Any]:
        return {
            "ours": self.ours,
            "baseline": self.baseline,
            "ratio": round(self.ratio, 3),
            f"ours_{self.unit}": rounded(list(self.of_ours)),
            f"baseline_{self.unit}": rounded(list(self.of_baseline)),
            f"ours_{self.unit}_median": rounded(median(self.of_ours)),
            f"baseline_{self.unit}_median": rounded(median(self.of_baseline)),
        }

    def rows(self) -> Sequence[tuple[str, ...]]:
        """Return cells for a table: who, in which unit, the median, the rounds."""
        contenders = ((self.ours, self.of_ours), (self.baseline, self.of_baseline))
        return [
            (name, _TITLES[self.unit], _shown(median(values)), " · ".join(map(_shown, values)))
            for name, values in contenders
        ] + [("ratio", "", f"{self.ratio:.3f}", "")]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark found.

    `comparisons` are by name, and the least of their ratios is the benchmark's; `contrasts` show what
    others would cost and count for nothing; `figures` stand for themselves.
    """

    bench: str
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    contrasts: dict[str, Comparison] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return min(comparison.ratio for comparison in self.comparisons.values())

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"bench": self.bench}
        if len(self.comparisons) == 1:
            found |= next(iter(self.comparisons.values())).as_dict()
        elif self.comparisons:
            found |= {"ratio": round(self.ratio, 3), "comparisons": _as_dicts(self.comparisons)}
        if self.contrasts:
            found["contrasts"] = _as_dicts(self.contrasts)
        found |= rounded(self.figures)
        return found | {"machine": machine()}


@dataclass(frozen=True, slots=True)
class Times:
    """What a few of many times were, in milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Take them from the sorted times themselves (the nearest rank), without interpolation."""
        times_ms = sorted(each * 1000 for each in seconds)

        def rank(share: float) -> float:
            return times_ms[min(len(times_ms) - 1, int(share * len(times_ms)))]

        return cls(len(times_ms), rank(0.5), rank(0.99), rank(0.999), times_ms[-1])


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


def rounded(found: Any) -> Any:  # noqa: ANN401 - JSON
    """Round every figure to what means anything."""
    match found:
        case dict():
            return {name: rounded(value) for name, value in found.items()}
        case list():
            return [rounded(value) for value in found]
        case float():
            return round(found) if abs(found) >= 1_000 else round(found, 3)  # noqa: PLR2004
    return found


def _as_dicts(comparisons: Mapping[str, Comparison]) -> dict[str, Any]:
    return {name: comparison.as_dict() for name, comparison in comparisons.items()}


def _shown(value: float) -> str:
    return f"{rounded(float(value)):,}"
