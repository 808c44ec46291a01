"""What every process stands on: its health port, its words about errors, its end."""

import json
import subprocess
import sys
import urllib.request
from contextlib import closing

import pytest
import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from runtime import health
from runtime.errors import first_line
from runtime.health import Health, HealthServer
from runtime.settings import SettingsError
from tests.waiting import DEADLINE_S

HERE = "127.0.0.1"


@pytest.mark.unit
def test_the_health_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody knew where to ask a process that may listen anywhere."""
    told = structlog.testing.CapturingLogger()
    monkeypatch.setattr(health, "_log", told)
    with closing(HealthServer(Health(), HERE, 0)) as server:
        [line] = told.calls
        url = f"http://{HERE}:{line.kwargs['port']}/healthz/ready"
        with urllib.request.urlopen(url) as response:
            assert json.load(response) == {"ready": True, "problems": {}}
    assert (line.method_name, line.args) == ("info", ("health",))
    assert server.port == line.kwargs["port"]


@pytest.mark.unit
def test_a_health_port_that_is_taken_is_a_setting_to_mend() -> None:
    with (
        closing(HealthServer(Health(), HERE, 0)) as first,
        pytest.raises(SettingsError, match="HEALTH_PORT"),
    ):
        HealthServer(Health(), HERE, first.port)


@pytest.mark.unit
def test_an_error_without_words_is_told_by_its_name() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert first_line(PoolTimeout("no connection\nmore")) == "no connection"


STUBBORN = """
import sys
from threading import Event
from runtime.shutdown import stop_on_signals
with stop_on_signals(0.1) as stop:
    if sys.argv[1] == "by itself":
        stop.set()
    print("here", flush=True)
    Event().wait()
"""


@pytest.mark.unit
@pytest.mark.parametrize("stops", ["when asked", "by itself"])
def test_who_does_not_end_in_time_is_ended_whether_or_not_it_had_begun(stops: str) -> None:
    """Also if nobody reads what it says of that."""
    command = [sys.executable, "-c", STUBBORN, stops]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.terminate()
        try:
            assert process.wait(DEADLINE_S) == 1
        finally:
            process.kill()


def test_an_error_of_the_database_is_told_without_statement_parameters_and_rows(
    engine: Engine,
) -> None:
    with engine.begin() as connection, pytest.raises(IntegrityError) as raised:
        connection.execute(
            text("INSERT INTO outbox.topic VALUES (:name, 1), (:name, 2)"), {"name": "secret"}
        )
    assert "secret" in str(raised.value)
    told = first_line(raised.value)
    assert "pk_topic" in told
    assert "secret" not in told
    assert "INSERT" not in told
