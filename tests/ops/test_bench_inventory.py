"""The benchmark of the inventory runs at its smallest and finds what can be true."""

from pathlib import Path

from ops.bench.environment import Run
from ops.bench.inventory import bench_inventory
from runtime.settings import Settings


def nobody(_what: str, _done: int, _total: int | None) -> None:
    """Show progress to nobody."""


def test_loads_and_searches_are_timed(settings: Settings, tmp_path: Path) -> None:
    found = bench_inventory(Run(settings, tmp_path, nobody), rooms=3, nights=10).as_dict()

    assert found["nights"] == 30
    assert {name for name in found if name.endswith("_s")} == {
        f"{kind}_{what}_{unit}"
        for kind in ("csv", "ndjson")
        for what in ("load", "load_again")
        for unit in ("s", "nights_per_s")
    }
    searched = {name: found[name] for name in found if name.startswith("search_")}
    assert len(searched) == 4, "the season is too short for thirty nights"
    assert all(value > 0 for value in searched.values())
