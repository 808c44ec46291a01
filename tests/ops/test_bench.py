"""The benchmarks: each runs at its smallest and finds what can be true. None is held to a speed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, text

import outbox
from domain import messages
from innbox_process.commands import CommandError
from ops import local
from ops.bench import contenders
from ops.bench.api import bench_api
from ops.bench.consumer import bench_consumer
from ops.bench.contenders import Contender
from ops.bench.contention import SERVER, bench_contention
from ops.bench.cost import bench_cost
from ops.bench.environment import Run, processes, session
from ops.bench.growth import bench_growth
from ops.bench.latency import bench_latency
from ops.bench.load import call, call_through_crashes
from ops.bench.measure import Comparison, Measured, percentiles
from ops.bench.processor import seconds_of, watched
from ops.bench.relay import fill
from ops.bench.saga import bench_saga
from ops.bench.writers import STAY, bench_writers
from ops.cli.bench import print_measured
from ops.environment import as_environment
from ops.supervisor import children_of
from runtime.settings import Settings
from tests.support.waiting import eventually


def nobody(_what: str, _done: int, _total: int | None) -> None:
    """Show progress to nobody."""


@pytest.fixture(autouse=True)
def hardly_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not held to a speed need not be warm."""
    monkeypatch.setattr("ops.bench.latency.WARM_UP_S", 0.1)


@pytest.fixture
def roomy(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings for a Postgres that takes prepared transactions, beside the session's Kafka."""
    with local.running(
        tmp_path / "roomy", parts=["postgres"], durable=False, postgres_settings=SERVER
    ) as servers:
        url = servers.database_url
        yield settings.model_copy(
            update={
                "database_url": url,
                "reservations_database_url": url,
                "rooms_database_url": url,
            }
        )


def assert_ordered(found: dict[str, Any], *names: str) -> None:
    values = [found[name] for name in names]
    assert values[0] > 0
    assert values == sorted(values)


def databases_of_benchmarks(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        names = connection.execute(text("SELECT datname FROM pg_database")).scalars()
        return [name for name in names if name.startswith(f"innbox_bench_{os.getpid()}")]


def topics_of(settings: Settings) -> set[str]:
    every = AdminClient(settings.kafka).list_topics(timeout=10).topics
    return {name for name in every if name.startswith(settings.kafka_prefix)}


def innbox_bench(*command: str, data: Path, settings: Settings) -> str:
    measured = subprocess.run(
        [sys.executable, "-m", "ops.cli", "--data", str(data), "bench", *command],
        env={"PATH": os.environ["PATH"], **as_environment(settings)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert measured.returncode == 0, measured.stderr
    return measured.stdout


def test_relay_is_compared_in_a_table_for_people(settings: Settings, tmp_path: Path) -> None:
    shown = innbox_bench(
        "relay", "--backlog", "1000", "--rounds", "1", data=tmp_path, settings=settings
    )
    assert "bare producer loop" in shown
    assert "ratio" in shown


def test_consumer_compares_batches_with_one_by_one_and_leaves_nothing(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    topics_before = topics_of(settings)
    # What comes with the first batch is not measured, so there must be more than one.
    total = settings.batch_size_max + 200
    found = bench_consumer(
        Run(settings, tmp_path, nobody), total=total, one_by_one=20, rounds=1
    ).as_dict()
    assert found["ratio"] > 0
    assert len(found["ours_per_s"]) == len(found["baseline_per_s"]) == 1
    assert databases_of_benchmarks(engine) == []
    # The brokers go on naming a topic for a moment.
    eventually(lambda: topics_of(settings) == topics_before)


def test_latency_tells_each_rate_and_the_worst_on_top(settings: Settings, tmp_path: Path) -> None:
    found = bench_latency(
        Run(settings, tmp_path, nobody), rates=(50, 100), seconds=0.4, mode="at-least-once"
    ).as_dict()
    assert [each["events_per_s"] for each in found["rates"]] == [50, 100]
    assert [each["count"] for each in found["rates"]] == [20, 40]
    for each in found["rates"]:
        assert_ordered(each, "p50_ms", "p99_ms", "p999_ms", "max_ms")
        assert each["since_due_p50_ms"] >= each["p50_ms"]
    assert found["p99_ms"] == max(each["p99_ms"] for each in found["rates"])
    assert_ordered(found, "p50_ms", "p99_ms")


def test_writers_compare_the_doorbell_and_show_notify_beside_it(
    settings: Settings, tmp_path: Path
) -> None:
    found = bench_writers(
        Run(settings, tmp_path, nobody), writers=3, seconds=0.2, rounds=1
    ).as_dict()
    assert found["ratio"] > 0
    assert found["contrasts"]["notify"]["ratio"] > 0


def test_contention_names_both_ratios_and_takes_the_lesser(roomy: Settings, tmp_path: Path) -> None:
    found = bench_contention(
        Run(roomy, tmp_path, nobody), backlog=1_000, transactions=20, rounds=1
    ).as_dict()
    ratios = {name: each["ratio"] for name, each in found["comparisons"].items()}
    assert ratios.keys() == {"one_open", "many_in_flight"}
    assert found["ratio"] == min(ratios.values()) > 0


def test_contention_says_what_a_server_lacks(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="max_prepared_transactions"):
        bench_contention(Run(settings, tmp_path, nobody), backlog=1_000, transactions=999, rounds=1)


@pytest.mark.proof
def test_growth_compares_the_drain_and_the_latency(settings: Settings, tmp_path: Path) -> None:
    found = bench_growth(
        Run(settings, tmp_path, nobody), history=3_000, days=3, backlog=1_000, seconds=0.4, rounds=1
    ).as_dict()
    assert found["comparisons"].keys() == {"drain", "latency"}
    assert found["ratio"] > 0


def test_cost_finds_no_row_of_the_log_touched(settings: Settings, tmp_path: Path) -> None:
    found = bench_cost(Run(settings, tmp_path, nobody), count=100, idle_s=0.5, rounds=3).as_dict()
    assert json.loads(json.dumps(found)) == found, "each figure is one of JSON's"
    assert found["dead_rows"] == found["rows_touched"] == 0
    assert found["idle_queries_per_s"] >= 0
    batched = found["comparisons"]["wal_in_batches"]
    assert 100 < batched["baseline_bytes_median"] < batched["ours_bytes_median"] < 10_000
    assert found["wal_bytes_per_relayed_event"] > batched["ours_bytes_median"]


@pytest.mark.parametrize("kills", [0, pytest.param(3, marks=pytest.mark.proof)])
def test_saga_tells_the_same_of_innbox_and_both_baselines(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    monkeypatch.setattr("ops.bench.saga.QUIET_S", 1.0)  # a killed API is back, or has lost it
    found = bench_saga(
        Run(settings, tmp_path, nobody),
        seconds=0.2,
        callers=4,
        wait_callers=4,
        schedule_per_s=50,
        rounds=1,
        kills=kills,
    ).as_dict()
    assert json.loads(json.dumps(found)) == found, "each figure is one of JSON's"
    baselines = found["baselines"]
    assert baselines.keys() == {"save_then_send", "polling"}
    for each in (found, *baselines.values()):
        assert_can_be_true(each)
    for each in baselines.values():
        assert found.keys() >= each.keys()
    assert found["ratio"] > 0
    assert found["lost"] == 0, "of innbox, killed or not"


def assert_can_be_true(found: dict[str, Any]) -> None:
    """What any contender's figures must be."""
    assert found["sagas_per_s"] > 0
    assert found["wait_sagas_per_s"] > 0
    assert_ordered(found, "p50_ms", "p99_ms")
    assert found["pending"] >= found["undrained"] == found["unanswered"] == 0
    parts = dict(found["cpu_us_per_saga"])
    assert parts.keys() >= {"api", "rooms", "results", "postgres", "kafka", "sum"}
    assert parts.pop("sum") == pytest.approx(sum(filter(None, parts.values())), rel=0.01)
    # The servers of the tests are on this machine.
    assert all(parts.values())


@pytest.mark.proof
@pytest.mark.parametrize("design", [contenders.save_then_send, contenders.polling_outbox])
def test_a_baseline_does_whole_sagas_without_the_outbox(
    settings: Settings,
    tmp_path: Path,
    design: Callable[[Settings], AbstractContextManager[Contender]],
) -> None:
    """Else innbox would be compared with something that does less, or with itself."""
    with design(settings) as one, processes(one.settings, one.children(tmp_path)):
        called = call(one.settings, callers=1, seconds=0.1, wait_s=20)
        assert called.statuses == {200: len(called.times)}, "each had its final status"
        with session(one.settings) as connection:
            ended = connection.scalars(text("SELECT status FROM reservations.reservation")).all()
            assert ended == ["CONFIRMED"] * len(called.times)
            assert connection.scalar(text("SELECT count(*) FROM outbox.message")) == 0


def test_the_processor_time_of_a_server_elsewhere_is_not_known(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    found = seconds_of(watched(elsewhere, []))
    assert found["postgres"]
    assert found["kafka"] is None


def test_a_saga_that_a_crash_has_left_without_an_event_counts_as_lost(
    settings: Settings, tmp_path: Path
) -> None:
    with contenders.save_then_send(settings) as one:
        (api,) = [child for child in one.children(tmp_path) if child.name == "api"]
        # Nobody answers: all that is accepted stays as it is.
        with processes(one.settings, [api]):
            accepted = call_through_crashes(one.settings, callers=2, seconds=0.2)
        assert one.pending_for_good(quiet_s=0.5, within_s=30) == accepted > 0


def test_api_is_compared_with_pgbench_and_shown_beside_its_floor(
    settings: Settings, tmp_path: Path
) -> None:
    found = bench_api(
        Run(settings, tmp_path, nobody), callers=3, seconds=1, rounds=1, rate=50
    ).as_dict()
    assert json.loads(json.dumps(found)) == found, "each figure is one of JSON's"
    assert found["ratio"] > 0
    assert found["contrasts"].keys() == {"one_process", "pipelined", "floor"}
    assert_ordered(found, "p50_ms", "p99_ms")
    assert [each["count"] > 0 for each in found["rates"]] == [True, True]
    # What the callers themselves cost is little beside a request.
    assert 0 < found["caller_us"] < 1_000


def test_a_made_message_is_what_append_makes(engine: Engine) -> None:
    """Else the backlogs of the benchmarks would be cheaper, or dearer, than true ones."""
    made_of = text("SELECT topic, key, key_hash, value, headers FROM outbox.message")
    with engine.begin() as connection:
        fill(connection, 1, first=7)
        outbox.append(connection, [messages.room_reserve(7, 8, STAY)])
        made, appended = connection.execute(made_of).all()
    assert made[:4] == appended[:4]
    # As they came: the ids and the instants are their own.
    own = ("ce_id", "ce_time")
    assert list(made.headers) == list(appended.headers)
    assert {name: len(made.headers[name]) for name in own} == {
        name: len(appended.headers[name]) for name in own
    }
    assert [made.headers[name] for name in made.headers if name not in own] == [
        appended.headers[name] for name in appended.headers if name not in own
    ]


def test_a_process_that_dies_spoils_the_measurement(settings: Settings, tmp_path: Path) -> None:
    (relay,) = [child for child in children_of(settings, tmp_path) if child.name == "relay"]

    def measure() -> None:
        with processes(settings, [relay]) as supervisor:
            supervisor.kill("relay")
            eventually(lambda: supervisor.states()[0].restarts)

    with pytest.raises(CommandError, match="relay died"):
        measure()


@pytest.mark.unit
def test_a_ratio_above_one_means_that_ours_is_better() -> None:
    """Of rates the higher is better, of times and of bytes the lower; rounds count by their median."""
    assert Comparison("ours", "baseline", "per_s", [1, 200, 900], [100]).ratio == 2
    assert Comparison("ours", "baseline", "p50_ms", [4], [2]).ratio == 0.5
    assert Comparison("ours", "baseline", "bytes", [100], [200]).ratio == 2


@pytest.mark.unit
def test_baselines_stand_beside_innbox_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"sagas_per_s": 1_200, "cpu_us_per_saga": {"api": 700, "kafka": None}}
    print_measured(Measured("bench", figures=figures, baselines={"polling": {"sagas_per_s": 300}}))
    cells = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in row] for row in cells if row]
    assert rows == [
        ["sagas per s", "1,200", "300"],
        ["cpu us per saga api", "700", ""],
        ["cpu us per saga kafka", "not seen", ""],
    ]


@pytest.mark.unit
def test_contrasts_do_not_count() -> None:
    good = Comparison("ours", "baseline", "per_s", [99], [100])
    bad = Comparison("theirs", "baseline", "per_s", [1], [100])
    assert Measured("bench", {"good": good}, {"bad": bad}).as_dict()["ratio"] == 0.99


@pytest.mark.unit
def test_times_are_taken_from_the_times_themselves() -> None:
    times = percentiles([each / 1000 for each in range(1_000, 0, -1)])
    assert list(times.values()) == [1000, 501, 991, 1000, 1000]
