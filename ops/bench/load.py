"""A load generator for POST /v1/reservations that costs little: one thread, one system call each way.

The loop is closed, each caller on a connection of its own asking again as soon as it has its answer; or
open, each call due at its own time, whatever happened to earlier ones. Of an answer only the status
and the length are read. What the generator costs is measured with every load (`own_us`).
"""

import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from secrets import token_hex
from typing import NamedTuple

from api.identity.scopes import READ, WRITE
from api.identity.signing import sign
from innbox_process.commands import CommandError
from runtime.settings import Settings

MEMBERS = 2_000
ROOMS = 50
OPENS_IN_DAYS = 14
NIGHTS = 60
STAY_NIGHTS = 3
# A call without an answer ends the measurement instead of hanging it.
_PATIENCE_S = 30.0
_RETRY_S = 0.05
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "


class Called(NamedTuple):
    """The time of each call in seconds, their rate, how many had each status, and the generator's cost.

    `own_us` is the generator's processor time for a call, in microseconds.
    """

    times: Sequence[float]
    per_s: float
    statuses: dict[int, int]
    own_us: float


def call(
    settings: Settings,
    *,
    callers: int,
    seconds: float,
    per_s: float | None = None,
    wait_s: int | None = None,
) -> Called:
    """Reserve for some seconds: each caller as soon as it has its answer, or all on a schedule.

    On a schedule the time of a call counts from when it was due: a call that is due waits while no caller
    is free. With `wait_s` each asks for its final status, `Prefer: wait`. Raises `CommandError` for an
    answer that is neither 202 nor 200, and where there is none.
    """
    request = requests(settings, wait_s)
    with select.epoll() as poll:
        address = settings.host, settings.api_port
        sockets = [socket.create_connection(address, timeout=_PATIENCE_S) for _ in range(callers)]
        try:
            for one in sockets:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                poll.register(one, select.EPOLLIN)
            return _called(poll, {one.fileno(): one for one in sockets}, request, seconds, per_s)
        finally:
            for one in sockets:
                one.close()


def call_through_crashes(settings: Settings, *, callers: int, seconds: float) -> int:
    """Reserve for some seconds through crashes of the API; returns how many reservations were accepted.

    As clients do it: what is cut or refused is sent again under its key until it is accepted. Raises
    `CommandError` where that takes too long.
    """
    request, numbers = requests(settings), count()
    ends_at = time.monotonic() + seconds

    def caller() -> int:
        accepted = 0
        while time.monotonic() < ends_at:
            _accepted(settings, request(next(numbers)))
            accepted += 1
        return accepted

    with ThreadPoolExecutor(callers) as pool:
        return sum(called.result() for called in [pool.submit(caller) for _ in range(callers)])


def _accepted(settings: Settings, request: bytes) -> None:
    gives_up_at = time.monotonic() + _PATIENCE_S
    while time.monotonic() < gives_up_at:
        # No API, half an answer, or a refusal: a key in flight, a database that is not ready.
        with suppress(OSError, CommandError):
            _asked(settings, request)
            return
        time.sleep(_RETRY_S)
    raise CommandError(f"a request was not accepted within {_PATIENCE_S:g} s")


def _asked(settings: Settings, request: bytes) -> None:
    address = settings.host, settings.api_port
    with socket.create_connection(address, timeout=_PATIENCE_S) as connection:
        connection.sendall(request)
        answer = connection.recv(65_536)
        while _status(answer) is None:
            more = connection.recv(65_536)
            answer = answer + more if more else b""


def _called(
    poll: select.epoll,
    sockets: dict[int, socket.socket],
    request: Callable[[int], bytes],
    seconds: float,
    per_s: float | None,
) -> Called:
    times: list[float] = []
    statuses: Counter[int] = Counter()
    idle = deque(sockets)
    due: dict[int, float] = {}  # of each call without an answer, by its connection
    partial: dict[int, bytes] = {}
    own_before_s, began_at = time.process_time(), time.perf_counter()
    ends_at, number = began_at + seconds, 0
    while True:
        now = time.perf_counter()
        due_at = began_at + number / per_s if per_s else now
        while idle and due_at <= now and due_at < ends_at:
            fd = idle.popleft()
            sockets[fd].send(request(number))
            due[fd] = due_at
            number += 1
            if per_s:
                due_at = began_at + number / per_s
        if not due and due_at >= ends_at:
            break
        is_due_later = bool(per_s and idle and due_at < ends_at)
        pause_s = max(0.0, due_at - time.perf_counter()) if is_due_later else _PATIENCE_S
        ready = poll.poll(pause_s)
        if not ready and not is_due_later:
            raise CommandError(f"no answer within {_PATIENCE_S:g} s")
        for fd, _ in ready:
            answer = partial.pop(fd, b"") + sockets[fd].recv(65_536)
            if (status := _status(answer)) is None:
                partial[fd] = answer
                continue
            times.append(time.perf_counter() - due.pop(fd))
            statuses[status] += 1
            idle.append(fd)
    took_s, own_s = time.perf_counter() - began_at, time.process_time() - own_before_s
    return Called(times, len(times) / took_s, dict(statuses), own_s / len(times) * 1e6)


def requests(settings: Settings, wait_s: int | None = None) -> Callable[[int], bytes]:
    """Return the function that makes a request of a number; members, rooms and nights take turns."""
    opens_on = datetime.now(UTC).date() + timedelta(days=OPENS_IN_DAYS)
    bodies = []
    for number in range(ROOMS * (NIGHTS - STAY_NIGHTS)):
        check_in = opens_on + timedelta(days=number // ROOMS)
        check_out = check_in + timedelta(days=STAY_NIGHTS)
        nights = f'"checkInDate":"{check_in}","checkOutDate":"{check_out}"'
        body = f'{{"roomId":{number % ROOMS + 1},{nights}}}'
        bodies.append(f"Content-Length: {len(body)}\r\n\r\n{body}")
    tokens = [sign(settings, member, (READ, WRITE)) for member in range(1, MEMBERS + 1)]
    series = token_hex(6)
    waiting = "" if wait_s is None else f"Prefer: wait={wait_s}\r\n"
    fixed = (
        f"POST /v1/reservations HTTP/1.1\r\nHost: {settings.host}:{settings.api_port}\r\n"
        f"Content-Type: application/json\r\n{waiting}"
    )

    def request(number: int) -> bytes:
        return (
            f"{fixed}Authorization: Bearer {tokens[number % MEMBERS]}\r\n"
            f"Idempotency-Key: {series}-{number}\r\n{bodies[number * 7 % len(bodies)]}"
        ).encode()

    return request


def _status(answer: bytes) -> int | None:
    """Return the status of a whole answer, None for a part of one; raises `CommandError`."""
    if not answer:
        raise CommandError("the API closed the connection")
    head, end, body = answer.partition(_HEAD_END)
    _, found, length = head.partition(_LENGTH)
    if not end or (found and len(body) < int(length.partition(b"\r")[0])):
        return None
    status = int(head[9:12])
    if status not in {200, 202}:
        raise CommandError(f"a call was refused: {answer.decode(errors='replace')}")
    return status
