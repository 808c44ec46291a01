"""The load generator: callers that send reservations over HTTP at as little cost as Python allows.

Each caller keeps one connection with one request at a time. Requests are prepared bytes; of an answer
only the status and the length are read. So the generator uses little processor time, which it measures
(`own_us`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from secrets import token_hex
from typing import NamedTuple

import uvloop

from api.identity.scopes import READ, WRITE
from api.identity.signing import sign
from innbox_process.commands import CommandError
from runtime.settings import Settings

MEMBERS = 2_000

# A call without an answer ends the measurement instead of hanging it.
_PATIENCE_S = 30.0


class Called(NamedTuple):
    """The time of each call, in seconds, their rate, and the generator's processor time for each."""

    times: Sequence[float]
    per_s: float
    own_us: float


def call(settings: Settings, *, callers: int, seconds: float, per_s: float | None = None) -> Called:
    """Call for some seconds: each caller as soon as it has its answer, or all on a schedule.

    On a schedule a call is due at its time, whatever happened to earlier ones, and its time counts
    from then: a call that is due waits while no caller is free. Raises `CommandError` for any answer
    that is not 202.
    """
    return uvloop.run(_call(settings, callers, seconds, per_s))


async def _call(settings: Settings, callers: int, seconds: float, per_s: float | None) -> Called:
    host, port, request = settings.host, settings.api_port, _requests(settings)
    connections = [await asyncio.open_connection(host, port) for _ in range(callers)]
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
            requests.write(request(number))
            await _accepted(answers)
            times.append(time.perf_counter() - due_at)

    async with asyncio.timeout(seconds + _PATIENCE_S):
        await asyncio.gather(*(caller(*connection) for connection in connections))
    took_s, own_s = time.perf_counter() - began_at, time.process_time() - own_before_s
    for _, requests in connections:
        requests.transport.abort()
    return Called(times, len(times) / took_s, own_s / len(times) * 1e6)


def _requests(settings: Settings) -> Callable[[int], bytes]:
    """Return the function that makes a request of a number; the members take turns."""
    check_in = datetime.now(UTC).date() + timedelta(days=30)
    check_out = check_in + timedelta(days=3)
    body = f'{{"roomId":7,"checkInDate":"{check_in}","checkOutDate":"{check_out}"}}'
    tokens = [sign(settings, member, (READ, WRITE)) for member in range(1, MEMBERS + 1)]
    series = token_hex(6)

    def request(number: int) -> bytes:
        return (
            f"POST /v1/reservations HTTP/1.1\r\nHost: {settings.host}:{settings.api_port}\r\n"
            f"Authorization: Bearer {tokens[number % MEMBERS]}\r\n"
            f"Idempotency-Key: {series}-{number}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    return request


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
