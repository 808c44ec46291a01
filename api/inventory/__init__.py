"""POST /v1/inventory: calendars of many rooms at once, streamed in and out. Needs the scope `inventory`.

Neither the body nor the answers are ever whole in memory. Lines are applied as they come; the answers
are stored and follow when the body has ended, so a client that does not read while it writes is not
waited for. A client that disconnects in the middle leaves what was applied so far.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from tempfile import SpooledTemporaryFile
from threading import Event
from typing import IO

import structlog
from litestar import Router, post
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency, Provide
from litestar.exceptions import InternalServerException
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import ASGIApp, Receive, Scope, Send
from sqlalchemy import Engine

from api.identity.auth import MemberRequest, needs
from api.identity.scopes import INVENTORY
from api.inventory.loading import Load
from api.inventory.openapi import ANSWERS, BulkOperation
from api.inventory.reading import NDJSON, Lines, reader_of
from api.problems import ProblemError

# So much of the body goes to a thread at once: some thousand lines.
BATCH_BYTES = 400_000
# More bytes of answers than this are stored on disk.
SPOOLED_BYTES_MAX = 1_000_000
# A line that is applied is answered with less than four times its bytes, however short it is; so only
# a load of which most is refused can be stopped for its answers.
ANSWERS_PER_BODY = 4
_CHUNK_BYTES = 65_536
# How long the rest of a body may take when the process stops: enough to read past one that comes quickly,
# so that its client is still there to read the answers.
LINGER_S = 2.0

_log = structlog.get_logger(__name__)


class BrokenOff(Exception):
    """The process stops, and the body has not ended in time."""


class ActiveUploads:
    """The uploads under way. Belongs to the event loop, but for `stop`, which their threads look at."""

    def __init__(self) -> None:
        self.stop = Event()
        self._ends_at: float | None = None
        self._waits: set[asyncio.Timeout] = set()

    def close(self) -> None:
        """End them all, now and from now on: the process stops."""
        self._ends_at = asyncio.get_running_loop().time() + LINGER_S
        self.stop.set()
        for wait in self._waits:
            wait.reschedule(self._ends_at)

    async def next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Wait for more of a body, None being its end.

        Raises `ProblemError` if the client breaks off, and `BrokenOff` if the process does.
        """
        try:
            async with asyncio.timeout_at(self._ends_at) as wait:
                self._waits.add(wait)
                try:
                    return await anext(chunks, None)
                finally:
                    self._waits.discard(wait)
        except TimeoutError as error:
            raise BrokenOff from error
        except InternalServerException as error:  # nobody is left to be answered
            raise ProblemError("BAD_REQUEST", "the body ended early") from error


@dataclass(frozen=True, slots=True)
class Dependencies:
    engine: Engine
    uploads: ActiveUploads
    answers_bytes_max: int


def inventory_routes(engine: Engine, uploads: ActiveUploads, bulk_bytes_max: int) -> Router:
    deps = Dependencies(engine, uploads, ANSWERS_PER_BODY * bulk_bytes_max)
    return Router(
        "/inventory",
        route_handlers=[load_inventory],
        dependencies={"deps": Provide(lambda: deps, sync_to_thread=False)},
        request_max_body_size=bulk_bytes_max,
        tags=["rooms"],
    )


@post(
    "/",
    operation_id="loadInventory",
    summary="Change the calendars of many rooms",
    status_code=200,
    **needs(
        INVENTORY,
        "OUTCOME_UNKNOWN",
        "BODY_TOO_LARGE",
        "UNSUPPORTED_MEDIA_TYPE",
        also={200: ANSWERS},
    ),
    operation_class=BulkOperation,
)
async def load_inventory(request: MemberRequest, deps: NamedDependency[Dependencies]) -> ASGIApp:
    """Apply each line by itself, in order, and answer each: some may be refused while others are not.

    Safe to repeat. Whatever ends a load in the middle is told in the summary: a `code`, and the first
    line of which it is not known whether it was applied. 503 says so of the first.
    """
    _refuse_encoded(request)
    reader = reader_of(request.headers.get("Content-Type"))
    answers = SpooledTemporaryFile(SPOOLED_BYTES_MAX)  # noqa: SIM115 - `_sending` closes it
    load = Load(deps.engine, reader, answers, deps.uploads.stop, deps.answers_bytes_max)
    try:
        await _take_all(load, request, deps.uploads)
    except BaseException:  # whatever it is goes on
        answers.close()
        raise
    counts = {"lines": load.seen, "applied": load.applied, "refused": load.refused}
    _log.info("inventory loaded", **counts, stopped=load.stopped and load.stopped.code)
    return _sending(answers)


def _refuse_encoded(request: MemberRequest) -> None:
    """Raise `ProblemError` for a body whose bytes are not its lines."""
    encodings = ",".join(request.headers.getall("Content-Encoding", [])).split(",")
    if {one.strip().lower() for one in encodings} - {"", "identity"}:
        accepted, detail = {"Accept-Encoding": "identity"}, "the body must not be encoded"
        raise ProblemError("UNSUPPORTED_MEDIA_TYPE", detail, headers=accepted)


async def _take_all(load: Load, request: MemberRequest, uploads: ActiveUploads) -> None:
    """Have the load take the body, in threads, for as long as both of them go on."""
    try:
        async for batch in _batches(request, uploads):
            await sync_to_thread(load.take, batch)
    except BrokenOff:
        load.break_off()
    await sync_to_thread(load.end)


async def _batches(
    request: MemberRequest, uploads: ActiveUploads
) -> AsyncIterator[list[bytes | None]]:
    """Cut the body into lines and give them by the thousand; raises what `ActiveUploads.next` does."""
    lines = Lines()
    batch: list[bytes | None] = []
    size = 0
    chunks = request.stream()
    while (chunk := await uploads.next(chunks)) is not None:
        batch += lines.feed(chunk)
        size += len(chunk)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch + lines.end()


def _sending(answers: IO[bytes]) -> ASGIApp:
    """Return what sends the file and closes it, even if the client or the process goes away."""

    async def send_all(scope: Scope, receive: Receive, send: Send) -> None:
        with closing(answers):
            answers.seek(0)
            chunks = iter(partial(answers.read, _CHUNK_BYTES), b"")
            response = ASGIStreamingResponse(iterator=chunks, media_type=NDJSON)
            await response(scope, receive, send)

    return send_all
