"""Sending a request until it is answered, or followed to its end: repeats, pauses, end of patience.

A request is repeated as it is, under its one idempotency key, when no answer came, or one that says
"not now"; under a key also when the API says that it failed, since nobody knows then whether it was
done. Every other answer is final. Patience begins with the first failure, however long that took. Pauses
double up to `PAUSE_S_MAX` and are jittered, so that the clients of an API that comes back do not come
back all at once; a Retry-After makes them longer.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any, TypeVar

import httpx
import msgspec
from httpx_sse import EventSource

from innbox_client.errors import UNREADABLE, Problem, Unavailable
from innbox_client.values import Transition

PATIENCE_S = 30.0
CONNECT_S, ANSWER_S = 5.0, 15.0
PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 2.0
# Several heartbeats: a server that sends none for so long is gone.
SILENT_S = 60.0

# Nothing becomes of a reservation after these.
LAST = frozenset({"REJECTED", "CANCELLED"})

# The network's faults; others of httpx's are the caller's, such as an address that is none.
UNANSWERED = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
    httpx.DecodingError,
)

_NOT_NOW = frozenset({429, 502, 503, 504})
_IN_FLIGHT = "IDEMPOTENCY_KEY_IN_FLIGHT"

Token = str | Callable[[], str]
Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, the same however often it is sent.

    `wait_s` is how long the API is asked to hold it, `answer_s` how long it may be silent otherwise.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    wait_s: int = 0
    answer_s: float = ANSWER_S
    patience_s: float = PATIENCE_S

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Wire:
    """Where the API is, who one is there, and how long one tries. Threads may share it.

    A `patience_s` of None leaves it to the request.
    """

    http: httpx.Client
    url: str
    token: Token
    patience_s: float | None
    on_repeat: Callable[[Exception], None]
    closed: Event = field(default_factory=Event)

    def send(self, asked: Asked, read: Callable[[bytes], Kind]) -> Kind:
        """Return what `read` makes of the answer.

        Raises `Problem` if the answer is no, `Unavailable` if there is none in time. Patience ends
        before another attempt, and does not cut one short.
        """
        attempts = Attempts(self, asked)
        while True:
            with attempts.waiting_out(), self.stream(asked) as response:
                return read(response.read())

    @contextmanager
    def stream(self, asked: Asked) -> Iterator[httpx.Response]:
        """Open an answer to be read; a peer that is silent for its `answer_s` counts as gone.

        Raises `Unavailable` if the client is closed, or is being closed while the block reads, and if
        what the block reads cannot be the API's.
        """
        if self.closed.is_set():
            raise Unavailable(str(asked), None, asked.key)
        request = self._request(asked)
        try:
            with closing(self.http.send(request, stream=True)) as response:
                if not response.is_success:
                    response.read()
                    raise Problem.of(response, asked.key)
                yield response
        except UNREADABLE as error:
            raise Unavailable(str(asked), error, asked.key) from error
        except RuntimeError as error:  # httpx's, of connections that another thread has closed
            if not self.closed.is_set():
                raise
            raise Unavailable(str(asked), None, asked.key) from error

    def _request(self, asked: Asked) -> httpx.Request:
        token = self.token if isinstance(self.token, str) else self.token()
        headers = {"Authorization": f"Bearer {token}", **asked.headers}
        if asked.key is not None:
            headers["Idempotency-Key"] = _quoted(asked.key)
        if asked.wait_s:
            headers["Prefer"] = f"wait={asked.wait_s}"
        return self.http.build_request(
            asked.method,
            self.url + asked.path,
            params=asked.params,
            content=asked.body,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S, read=asked.answer_s + asked.wait_s),
        )


def follow(wire: Wire, path: str, after: int | None) -> Iterator[Transition]:
    """Yield the transitions beyond the version `after`, the first one on if it is None.

    Ends when nothing can come any more; until then every ended connection is made again, and
    `Last-Event-ID` has it go on where it ended, so no transition is missed and none is told twice.
    """
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    asked = Asked("GET", path, answer_s=SILENT_S)
    attempts = Attempts(wire, asked)
    while True:
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        with attempts.waiting_out():
            with wire.stream(replace(asked, headers=headers)) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                attempts.renew()  # until the stream has ended, however long that takes
                for transition in _transitions(response):
                    after = transition.version
                    yield transition
                    if transition.status in LAST:
                        return
            attempts.pause(ConnectionResetError("the stream has ended"))


def _transitions(response: httpx.Response) -> Iterator[Transition]:
    for event in EventSource(response).iter_sse():
        if event.event == "transition":
            yield msgspec.json.decode(event.data, type=Transition)


class Attempts:
    """The patience of one call; it begins when an attempt has failed."""

    def __init__(self, wire: Wire, asked: Asked) -> None:
        self._wire = wire
        self._asked = asked
        self._ends_at: float | None = None
        self._pause_s = PAUSE_S_MIN

    def renew(self) -> None:
        """Have patience anew: something was heard. Pauses stay as long as they have become."""
        self._ends_at = None

    @contextmanager
    def waiting_out(self) -> Iterator[None]:
        """Make an attempt in a block; if it fails by what passes, swallow that and pause."""
        try:
            yield
        except Problem as problem:
            if not _is_passing(problem):
                raise
            self.pause(problem)
        except UNANSWERED as error:
            self.pause(error)

    def pause(self, error: Exception) -> None:
        """Wait for the next attempt; raises `Unavailable` if there is to be none."""
        # Jitter: no adversary gains by guessing it.
        pause_s = self._pause_s * random.uniform(0.5, 1)  # noqa: S311
        if isinstance(error, Problem):
            pause_s = max(pause_s, error.retry_after_s or 0)
        now = time.monotonic()
        if self._ends_at is None:
            own_s = self._wire.patience_s
            patience_s = self._asked.patience_s if own_s is None else own_s
            # A repeat may be held by the API as long as the first attempt.
            self._ends_at = now + patience_s + self._asked.wait_s
        if now + pause_s > self._ends_at:
            raise Unavailable(str(self._asked), error, self._asked.key) from error
        self._wire.on_repeat(error)
        if self._wire.closed.wait(pause_s):
            raise Unavailable(str(self._asked), None, self._asked.key) from error
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)


def _is_passing(problem: Problem) -> bool:
    """Tell whether the same request may be answered otherwise in a moment.

    A failure of the API's may have come before the commit or behind it; under a key, asking tells.
    """
    failed = problem.status == httpx.codes.INTERNAL_SERVER_ERROR and problem.key is not None
    return failed or problem.status in _NOT_NOW or problem.code == _IN_FLIGHT


def _quoted(key: str) -> str:
    """Write a string as structured headers do (RFC 9651)."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
