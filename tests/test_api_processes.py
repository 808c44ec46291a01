"""One API in several processes: one port, one set of metrics, one end."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import httpx
import psutil
import pytest

from api.identity.signing import sign
from api.serving import processes
from tests.api_client import ME, a_stay, an_api_process, some_settings
from tests.waiting import DEADLINE_S, eventually


@contextmanager
def an_api_of_two(database_url: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    with an_api_process(database_url, API_PROCESSES="2") as (process, url):
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["url"] == url
        yield process, url


def serving(process: "subprocess.Popen[str]", port: int) -> list[psutil.Process]:
    """The processes that listen; the first one only looks after them."""
    return [one for one in psutil.Process(process.pid).children() if listens(one, port)]


def listens(child: psutil.Process, port: int) -> bool:
    # It has ended meanwhile; until that is noticed, only root may look at what is left of it.
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return any(one.laddr.port == port for one in child.net_connections())
    return False


def reserve(url: str, database_url: str) -> int:
    """Ask on a connection of one's own."""
    token = sign(some_settings(database_url), ME)
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(
        f"{url}/v1/reservations", json=a_stay(), headers=headers, timeout=30
    ).status_code


def counted(url: str) -> int:
    metrics = httpx.get(f"{url}/metrics", timeout=30).text
    found = re.search(
        r'innbox_http_request_seconds_count\{method="POST",route="/v1/reservations",status="202"\} (\d+)',
        metrics,
    )
    return int(found[1]) if found else 0


def test_two_processes_share_a_port_and_their_metrics_and_end_in_order(database_url: str) -> None:
    with an_api_of_two(database_url) as (process, url):
        assert [reserve(url, database_url) for _ in range(12)] == [202] * 12
        eventually(lambda: counted(url) == 12)  # which is after the answers
        assert {counted(url) for _ in range(6)} == {12}, "whichever process answers"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_S) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_process_that_is_killed_is_started_again(database_url: str) -> None:
    with an_api_of_two(database_url) as (process, url):
        port = httpx.URL(url).port or 0
        eventually(lambda: len(serving(process, port)) == 2)
        victim = serving(process, port)[0]
        victim.kill()
        eventually(
            lambda: len([one for one in serving(process, port) if one.pid != victim.pid]) == 2
        )
        assert [reserve(url, database_url) for _ in range(6)] == [202] * 6


def test_the_processes_end_when_the_one_that_looks_after_them_is_killed(database_url: str) -> None:
    with an_api_of_two(database_url) as (process, url):
        crew = serving(process, httpx.URL(url).port or 0)
        process.kill()
        _, alive = psutil.wait_procs(crew, timeout=DEADLINE_S)
    assert alive == []


def test_a_process_that_hangs_is_killed_and_started_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = some_settings(database_url, api_processes=2)
    listeners = processes.sharing(settings)
    crew = [processes.started(settings, listener) for listener in listeners]
    stop = Event()
    watch = Thread(target=processes.look_after, args=[settings, crew, stop])
    try:
        began_at = [child.beat_at for child in crew]
        watch.start()
        eventually(
            lambda: all(child.beat_at > at for child, at in zip(crew, began_at, strict=True))
        )
        monkeypatch.setattr(processes, "HUNG_S", 6.0)
        hung = crew[0].process.pid
        psutil.Process(hung).suspend()
        eventually(lambda: crew[0].process.pid != hung)
        assert not psutil.pid_exists(hung or 0)
    finally:
        stop.set()
        watch.join()
        processes.end(crew, 10)
        for listener in listeners:
            listener.close()
