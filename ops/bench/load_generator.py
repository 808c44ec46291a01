"""The load generator: callers that send reservations over HTTP at as little cost as Python allows.

Each caller keeps one connection with one request at a time. Requests are prepared bytes; of an answer
only the status and the length are read. So the generator uses little processor time, which it measures
(`own_us`).
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import uvloop

from innbox_process.commands import CommandError

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
    """The time of each call, in seconds, their rate, and the generator's processor time for each."""

    times: Sequence[float]
    per_s: float
    own_us: float


def call(script: Script, *, callers: int, seconds: float, per_s: float | None = None) -> Called:
    """Call for some seconds: each caller as soon as it has its answer, or all on a schedule.

    On a schedule a call is due at its time, whatever happened to earlier ones, and its time counts
    from then: a call that is due waits while no caller is free. Raises `CommandError` for any answer
    that is not 202.
    """
    return uvloop.run(_call(script, callers, seconds, per_s))


async def _call(script: Script, callers: int, seconds: float, per_s: float | None) -> Called:
    connections = [await asyncio.open_connection(script.host, script.port) for _ in range(callers)]
    own_before_s, began_at = time.process_time(), time.perf_counter()
    numbers = count()
    times: list[float] = []

    async def caller(answers: asyncio.StreamReader, requests: asyncio.StreamWriter) -> None:
        for number in numbers:
            now = time.perf_counter()
            due_at = began_at + number / per_s if per_s else now
            if due_at >= began_at + seconds:
                return
            if due_at > now:
                await asyncio.sleep(due_at - now)
            requests.write(script.request(number))
            await _accepted(answers)
            times.append(time.perf_counter() - due_at)

    async with asyncio.timeout(seconds + _PATIENCE_S):
        await asyncio.gather(*(caller(*connection) for connection in connections))
    took_s, own_s = time.perf_counter() - began_at, time.process_time() - own_before_s
    for _, requests in connections:
        requests.transport.abort()
    return Called(times, len(times) / took_s, own_s / len(times) * 1e6)


async def _accepted(answers: asyncio.StreamReader) -> None:
    """Read an answer; raises `CommandError` unless it is a 202."""
    try:
        head = await answers.readuntil(b"\r\n\r\n")
        _, _, length = head.partition(b"\r\ncontent-length: ")
        body = await answers.readexactly(int(length.partition(b"\r")[0]))
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise CommandError(f"the API closed the connection: {error}") from error
    if b" 202 " not in head[:16]:
        raise CommandError(f"a call was refused: {(head + body).decode(errors='replace')}")
