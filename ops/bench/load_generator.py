"""The load generator: callers that send reservations over HTTP at as little cost as Python allows.

Each caller keeps one connection with one request at a time. Requests are prepared bytes; of an answer
only the status and the length are read. So the generator uses little processor time, which it measures
(`own_us`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import cast

import uvloop

from innbox_process.commands import CommandError

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_ACCEPTED = b" 202 "
# A call without an answer ends the measurement instead of hanging it.
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Script:
    """The requests, by number; the members take turns."""

    host: str
    port: int
    tokens: Sequence[str]
    body: bytes
    series: str

    def request(self, number: int) -> bytes:
        return (
            f"POST /v1/reservations HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Authorization: Bearer {self.tokens[number % len(self.tokens)]}\r\n"
            f"Idempotency-Key: {self.series}-{number}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n\r\n"
        ).encode() + self.body


@dataclass(frozen=True, slots=True)
class Called:
    """The time of each call, of all calls, and of the generator's processor, in seconds."""

    times: Sequence[float]
    took_s: float
    own_s: float

    @property
    def per_s(self) -> float:
        return len(self.times) / self.took_s

    @property
    def own_us(self) -> float:
        """The generator's processor time for each call, in microseconds."""
        return self.own_s / len(self.times) * 1e6


def call(script: Script, *, callers: int, seconds: float, per_s: float | None = None) -> Called:
    """Call for some seconds: each caller as soon as it has its answer, or all on a schedule.

    On a schedule a call is due at its time, whatever happened to earlier ones, and its time counts
    from then. Raises `CommandError` for any answer that is not 202.
    """
    return uvloop.run(_call(script, callers, seconds, per_s))


async def _call(script: Script, callers: int, seconds: float, per_s: float | None) -> Called:
    loop = asyncio.get_running_loop()
    calls = _Calls(script, loop.create_future())
    for _ in range(callers):
        _, caller = await loop.create_connection(lambda: _Caller(calls), script.host, script.port)
        calls.idle.append(caller)
    own_before_s, began_at = time.process_time(), time.perf_counter()
    if per_s is None:
        calls.ends_at = began_at + seconds
        calls.begin_all()
    else:
        await calls.keep_to(per_s, seconds)
    async with asyncio.timeout(seconds + _PATIENCE_S):
        await calls.done
    took_s = time.perf_counter() - began_at
    for caller in calls.idle:
        caller.close()
    return Called(calls.times, took_s, time.process_time() - own_before_s)


@dataclass(slots=True)
class _Calls:
    """The callers, and the times of their calls."""

    script: Script
    done: asyncio.Future[None]
    idle: "deque[_Caller]" = field(default_factory=deque)
    due: deque[float] = field(default_factory=deque)
    times: list[float] = field(default_factory=list)
    numbers: "count[int]" = field(default_factory=count)
    out: int = 0
    ends_at: float = 0.0
    is_over: bool = False

    def begin_all(self) -> None:
        """Have all callers call at once, and again until the time is over."""
        self.is_over = True
        while self.idle:
            self._begin(time.perf_counter())

    async def keep_to(self, per_s: float, seconds: float) -> None:
        """Begin calls at a rate; a call waits while no caller is free."""
        began_at = time.perf_counter()
        for number in range(int(per_s * seconds)):
            due_at = began_at + number / per_s
            await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
            if self.idle:
                self._begin(due_at)
            else:
                self.due.append(due_at)
        self.is_over = True
        self._end_if_over()

    def answered(self, caller: "_Caller", since: float) -> None:
        now = time.perf_counter()
        self.times.append(now - since)
        self.out -= 1
        self.idle.append(caller)
        if self.due:
            self._begin(self.due.popleft())
        elif now < self.ends_at:
            self._begin(now)
        else:
            self._end_if_over()

    def fail(self, what: str) -> None:
        if not self.done.done():
            self.done.set_exception(CommandError(what))

    def _begin(self, since: float) -> None:
        self.out += 1
        self.idle.popleft().call(self.script.request(next(self.numbers)), since)

    def _end_if_over(self) -> None:
        if self.is_over and not self.out and not self.done.done():
            self.done.set_result(None)


class _Caller(asyncio.Protocol):
    """One connection, with one call on it at a time."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls
        self._since = 0.0
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def call(self, request: bytes, since: float) -> None:
        self._since = since
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head_bytes = self._got.find(_HEAD_END)
        if head_bytes < 0:
            return
        length_at = self._got.find(_LENGTH, 0, head_bytes) + len(_LENGTH)
        length = int(self._got[length_at : self._got.find(b"\r", length_at)])
        if len(self._got) < head_bytes + len(_HEAD_END) + length:
            return
        answer, self._got = self._got, b""
        if _ACCEPTED in answer[:16]:
            self._calls.answered(self, self._since)
        else:
            self._calls.fail(f"a call was refused: {answer.decode(errors='replace')}")

    def connection_lost(self, error: Exception | None) -> None:
        self._calls.fail(f"the API closed the connection: {error}")

    def close(self) -> None:
        self._transport.abort()
