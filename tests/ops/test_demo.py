"""The demo: a hotel under load, processes killed, nothing lost; and `innbox up` around it."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import psutil
import pytest

from ops.cli.verify import verdict_line
from ops.demo.guests import load_hotel, requests
from ops.demo.run import compare
from ops.local import Servers
from tests.support.waiting import eventually

TODAY = date(2026, 12, 1)


@pytest.mark.unit
def test_more_guests_want_a_busy_night_than_there_are_rooms() -> None:
    hotel = load_hotel()
    wanted: Counter[date] = Counter()
    for request in requests(hotel, TODAY, 1_000, seed=1):
        nights = (request.check_out - request.check_in).days
        wanted.update(request.check_in + timedelta(days=night) for night in range(nights))
    capacity = sum(room.capacity for room in hotel.rooms)
    busy = [hotel.opens_on(TODAY) + timedelta(days=night) for night in hotel.season.busy_nights]
    assert all(wanted[night] > capacity for night in busy)


@pytest.mark.unit
def test_every_request_lies_within_the_season_and_is_the_same_for_the_same_seed() -> None:
    hotel = load_hotel()
    opens_on = hotel.opens_on(TODAY)
    closes_on = opens_on + timedelta(days=hotel.season.nights)
    wanted = requests(hotel, TODAY, 1_000, seed=7)
    assert all(opens_on <= request.check_in < request.check_out <= closes_on for request in wanted)
    assert wanted == requests(hotel, TODAY, 1_000, seed=7)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("answered", "stored", "vanished", "unexplained"),
    [
        ([1, 2, 3], [1, 2, 3], 0, 0),
        ([1, 2, 3], [1, 3], 1, 0),
        ([1, 2], [1, 2, 3], 0, 1),
        ([1, 2, 2], [1, 2], 0, 1),
    ],
    ids=[
        "all is well",
        "an answer without a row",
        "a row without an answer",
        "one for two requests",
    ],
)
def test_the_answers_are_compared_with_the_stored_reservations(
    answered: list[int], stored: list[int], vanished: int, unexplained: int
) -> None:
    assert compare(answered, stored) == (vanished, unexplained)


@pytest.mark.unit
def test_a_demo_that_fails_names_the_counts_that_are_not_zero() -> None:
    counts = dict.fromkeys(("open", "lost", "doubled", "oversold", "violations"), 0)
    assert "holds" in verdict_line(counts | {"holds": True})
    failed = verdict_line(counts | {"holds": False, "lost": 2, "violations": 1_200})
    assert failed.endswith("2 lost, 1,200 violations")


def test_the_demo_kills_processes_and_every_invariant_holds(tmp_path: Path) -> None:
    """The whole main job: HTTP, Postgres, Kafka, two SIGKILLs, and an outsider's verification."""
    ended = subprocess.run(
        [sys.executable, "-m", "ops.cli", "demo", "--reservations", "250", "--json"],
        env=_only_the_path(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    outcome = json.loads(ended.stdout)
    assert outcome["reservations"] == 250
    assert outcome["confirmed"] + outcome["rejected"] + outcome["cancelled"] == 250
    assert min(outcome["confirmed"], outcome["rejected"], outcome["cancelled"]) > 0
    harm = {name: outcome[name] for name in ("open", "lost", "doubled", "oversold", "violations")}
    assert not any(harm.values()), harm
    assert [kill["process"] for kill in outcome["kills"]] == ["relay", "rooms"]
    assert 0 < outcome["latency_ms"]["p50"] <= outcome["latency_ms"]["p99"]
    assert list(tmp_path.iterdir()) == []


def test_up_runs_everything_and_ctrl_c_ends_everything(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    given = _only_the_path() | {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap_servers,
        "KAFKA_PREFIX": f"up-{os.getpid()}-",
    }
    up = subprocess.Popen(
        [sys.executable, "-m", "ops.cli", "--data", str(tmp_path), "up", "--port", "0"],
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert up.stdout is not None
    try:
        said = ""
        while "Ctrl-C" not in said:
            line = up.stdout.readline()
            assert line, f"ended early: {said}"
            said += line
        assert "/v1" in said
        started = psutil.Process(up.pid).children(recursive=True)
        assert len(started) == 4
        up.send_signal(signal.SIGINT)
        eventually(lambda: up.poll() is not None)
        assert up.returncode == 0
        assert not any(process.is_running() for process in started)
    finally:
        up.kill()
        up.wait()
        up.stdout.close()


def _only_the_path() -> dict[str, str]:
    """The environment of a fresh machine, but for the cache of what was downloaded."""
    kept = {"PATH", "HOME", "INNBOX_CACHE", "INNBOX_MAVEN_REPOSITORY"}
    return {name: value for name, value in os.environ.items() if name in kept}
