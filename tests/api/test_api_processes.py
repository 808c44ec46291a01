"""Several APIs on one port: each answers, and the end of one is not the end of the others."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import httpx
import pytest

from api.serving.process import listening
from runtime.settings import SettingsError, load_settings
from tests.support.api_client import a_port, an_api_process, some_settings
from tests.support.waiting import DEADLINE_S, eventually

Process = subprocess.Popen[str]


@contextmanager
def two_apis(database_url: str) -> Iterator[tuple[list[Process], str]]:
    """Two processes that are named in what they answer, and their one address."""
    with ExitStack() as stack, closing(a_port()) as kept:
        port = kept.getsockname()[1]
        started = [
            stack.enter_context(
                an_api_process(
                    database_url,
                    API_PORT=str(port),
                    API_REUSE_PORT="true",
                    INNBOX_INSTANCE=f"api-{number}",
                )
            )
            for number in (1, 2)
        ]
        [url] = {url for _, url in started}
        yield [process for process, _ in started], url


def answering(url: str) -> str:
    """Which of them takes a new connection."""
    return str(httpx.get(f"{url}/healthz/ready", timeout=30).json()["instance"])


def test_processes_share_a_port_and_end_in_order(database_url: str) -> None:
    with two_apis(database_url) as (processes, url):
        eventually(lambda: answering(url) == "api-1")
        eventually(lambda: answering(url) == "api-2")
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(timeout=DEADLINE_S) for process in processes] == [0, 0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_when_a_process_is_killed_the_other_answers(database_url: str) -> None:
    with two_apis(database_url) as (processes, url):
        processes[0].kill()
        processes[0].wait(timeout=DEADLINE_S)
        assert {answering(url) for _ in range(6)} == {"api-2"}


def test_a_port_is_not_shared_unless_that_is_asked_for(database_url: str) -> None:
    with an_api_process(database_url, API_REUSE_PORT="true") as (_, url):
        port = httpx.URL(url).port or 0
        with pytest.raises(SettingsError, match="cannot listen"):
            listening(some_settings(database_url, api_port=port))


@pytest.mark.unit
def test_the_setting_that_was_removed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = {"database_url": "postgresql+psycopg://a@b/c", "kafka_bootstrap_servers": "b:9092"}
    monkeypatch.setenv("API_PROCESSES", "1")
    load_settings(**servers)
    monkeypatch.setenv("API_PROCESSES", "2")
    with pytest.raises(SettingsError, match="API_REUSE_PORT=true"):
        load_settings(**servers)
