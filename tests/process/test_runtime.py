"""What every process stands on: its health port, its words about errors, its end."""

import json
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus

import pytest
import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from innbox_process import health
from innbox_process.errors import first_line
from innbox_process.health import Health, HealthServer
from runtime.settings import SettingsError
from tests.support.waiting import DEADLINE_S, eventually

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
def test_a_probe_that_hangs_up_is_no_error_and_what_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one line of the log, and with nothing beside it on standard error."""
    told = structlog.testing.CapturingLogger()
    monkeypatch.setattr(health, "_log", told)
    answers: list[Callable[[], bytes]] = [lambda: b"x" * 50_000_000, lambda: bytes(1 // 0)]
    monkeypatch.setattr(
        health, "answer", lambda *_: (HTTPStatus.OK, "text/plain", answers.pop(0)())
    )
    with closing(HealthServer(Health(), HERE, 0)) as server:
        with socket.create_connection((HERE, server.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            client.recv(1)
        with socket.create_connection(
            (HERE, server.port)
        ) as client:  # before it has asked anything
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with socket.create_connection((HERE, server.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert client.recv(1) == b""
        eventually(
            lambda: not any("process_request" in each.name for each in threading.enumerate())
        )
    assert [(line.method_name, line.args) for line in told.calls] == [
        ("info", ("health",)),
        ("exception", ("a probe was not answered",)),
    ]
    assert capfd.readouterr().err == ""


SAYS_MUCH = """
import logging, sys, threading, warnings
from innbox_process.logs import configure_logs
from runtime.settings import Settings
class Careless:
    def __del__(self): raise ValueError("ignored")
url = "postgresql+psycopg://nobody"
configure_logs(Settings(database_url=url, kafka_bootstrap_servers="nobody:1"), "relay")
warnings.warn("warned of")
logging.getLogger("careless").warning("%d of %s", "not a number")
thread = threading.Thread(target=lambda: 1 // 0, name="hand")
thread.start()
thread.join()
del [Careless()][0]
raise ValueError("at the end")
"""


@pytest.mark.unit
def test_whatever_python_has_to_say_is_a_line_of_the_log() -> None:
    """Each names the process, from whichever thread it comes."""
    said = subprocess.run(
        [sys.executable, "-c", SAYS_MUCH], stderr=subprocess.PIPE, check=False, text=True
    )
    lines = [json.loads(line) for line in said.stderr.splitlines()]
    assert said.returncode == 1
    assert {line["process"] for line in lines} == {"relay"}
    assert ["warned of" in lines[0]["event"], *(line["event"] for line in lines[1:])] == [
        True,
        "a log line could not be written",
        "uncaught exception",
        "exception ignored",
        "uncaught exception",
    ]
    assert (lines[2]["thread"], "ZeroDivisionError" in lines[2]["exception"]) == ("hand", True)
    assert "at the end" in lines[4]["exception"]


@pytest.mark.unit
def test_an_error_without_words_is_told_by_its_name() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert first_line(PoolTimeout("no connection\nmore")) == "no connection"


STUBBORN = """
import sys
from threading import Event
from innbox_process.shutdown import stop_on_signals
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
