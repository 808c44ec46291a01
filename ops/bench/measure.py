"""Measurements: their options, comparisons of a candidate with a baseline, and the times of many events.

In every comparison a ratio above 1 means that the candidate is better, whatever the unit.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeVar, get_args

import click

from innbox_process.commands import Report, reported
from runtime.settings import RelayMode

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Found = TypeVar("_Found")

# What is measured in turn, and what was found in each round, by the name of the way.
Ways = Mapping[str, Callable[[], _Found]]
Rounds = Mapping[str, Sequence[float]]
Unit = Literal["per_s", "p50_ms", "bytes"]
_TITLES: dict[Unit, str] = {"per_s": "a second", "p50_ms": "p50, ms", "bytes": "bytes"}


def bounded(
    name: str,
    low: float,
    high: float,
    default: float,
    *,
    into: str | None = None,
    help_: str | None = None,
) -> Callable[[_Command], _Command]:
    """Return an option for a number between bounds, for a whole number if `low` is one."""
    type_ = click.IntRange(low, int(high)) if isinstance(low, int) else click.FloatRange(low, high)
    names = (name, into) if into else (name,)
    return click.option(*names, type=type_, default=default, show_default=True, help=help_)


with_rounds = bounded("--rounds", 1, 20, 3, help_="Measured rounds; one more warms up.")
relay_mode = click.option(
    "--mode",
    type=click.Choice(get_args(RelayMode)),
    default="at-least-once",
    show_default=True,
    help="The relay's mode.",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The candidate and the baseline in one unit, with one value for each round.

    `as_dict` names the candidate "ours", a key that programs read.
    """

    candidate: str
    baseline: str
    unit: Unit
    of_candidate: Sequence[float]
    of_baseline: Sequence[float]

    @classmethod
    def of(cls, found: Rounds, candidate: str, baseline: str, unit: Unit = "per_s") -> "Comparison":
        """Compare two of the ways that were measured in turn."""
        return cls(candidate, baseline, unit, found[candidate], found[baseline])

    @property
    def ratio(self) -> float:
        candidate, baseline = median(self.of_candidate), median(self.of_baseline)
        return candidate / baseline if self.unit == "per_s" else baseline / candidate

    def as_dict(self) -> dict[str, Any]:
        return {
            "ours": self.candidate,
            "baseline": self.baseline,
            "ratio": round(self.ratio, 3),
            f"ours_{self.unit}": rounded(list(self.of_candidate)),
            f"baseline_{self.unit}": rounded(list(self.of_baseline)),
            f"ours_{self.unit}_median": rounded(median(self.of_candidate)),
            f"baseline_{self.unit}_median": rounded(median(self.of_baseline)),
        }

    def rows(self) -> Sequence[tuple[str, ...]]:
        """Return cells for a table: name, unit, median and rounds."""
        compared = ((self.candidate, self.of_candidate), (self.baseline, self.of_baseline))
        return [
            (name, _TITLES[self.unit], _shown(median(values)), " · ".join(map(_shown, values)))
            for name, values in compared
        ] + [("ratio", "", f"{self.ratio:.3f}", "")]


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of a benchmark.

    `comparisons` are by name, and the lowest of their ratios is the benchmark's; `contrasts` show
    alternatives and do not count in the ratio; `figures` are single values, and `baselines` the same of
    what stands beside it.
    """

    bench: str
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    contrasts: dict[str, Comparison] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"bench": self.bench}
        if len(self.comparisons) == 1:
            found |= next(iter(self.comparisons.values())).as_dict()
        elif self.comparisons:
            ratio = min(comparison.ratio for comparison in self.comparisons.values())
            found |= {"ratio": round(ratio, 3), "comparisons": _as_dicts(self.comparisons)}
        if self.contrasts:
            found["contrasts"] = _as_dicts(self.contrasts)
        found |= rounded(self.figures)
        if self.baselines:
            found["baselines"] = rounded(self.baselines)
        machine = {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        }
        return found | {"machine": machine}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles of times in milliseconds, by nearest rank, without interpolation."""
    times_ms = sorted(each * 1000 for each in seconds)
    count = len(times_ms)
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
    ranks = {name: min(count - 1, int(share * count)) for name, share in shares.items()}
    return {"count": count, **{name: times_ms[rank] for name, rank in ranks.items()}}


def in_turn(
    report: Report, doing: str, rounds: int, ways: Ways[_Found], *, warm_up: int = 1
) -> dict[str, list[_Found]]:
    """Measure each way once in every round; the rounds that warm up are more, and do not count."""
    found: dict[str, list[_Found]] = {name: [] for name in ways}
    for _ in reported(report, f"{doing}: {', '.join(ways)}", range(warm_up + rounds)):
        for name, measure in ways.items():
            found[name].append(measure())
    return {name: values[warm_up:] for name, values in found.items()}


def rate(messages: int, work: Callable[[], object]) -> float:
    """Return the messages per second of a function that processes them."""
    started_at = time.perf_counter()
    work()
    return messages / (time.perf_counter() - started_at)


def rounded(found: Any) -> Any:  # noqa: ANN401 - JSON
    """Round every figure to its significant digits."""
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
