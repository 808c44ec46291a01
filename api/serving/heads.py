"""Heads of requests, bounded: uvicorn reads one of any length, from anybody, for as long as it takes.

A head that is too large is answered 431, one that does not end in time is not answered. A body may be
long, and its length is bounded elsewhere; one of which nothing comes for a while is answered 408. No
route has to do with any of it, so no answer is a problem of RFC 9457. What follows a body (trailers)
and stands between its chunks is bounded like a head.
"""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_BYTES_MAX = 65_536
# A browser sends twenty or thirty; proxies add a few.
HEADERS_MAX = 256
# From a connection's beginning, or from the first byte after an answer.
HEAD_S_MAX = 10.0
# Between two parts of a body. A load may be fed by something slow; who has gone without a word holds
# its answers, and a place in the process, until then.
PAUSE_S_MAX = 60.0

_NO_BODY = b"content-length: 0\r\nconnection: close\r\n\r\n"


class HeadTooLarge(Exception):
    """Stops the parser, which makes an error of its own out of it."""


class BoundedHeads(HttpToolsProtocol):
    """HTTP by httptools, with bounds on what it reads before somebody is known."""

    # Bytes since the parser last had something to give: a head, or a part of a body.
    _withheld = 0
    _is_too_large = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._withheld += len(data)
        super().data_received(data)
        if not self._is_answering():
            self._expect_head()
        elif self.cycle.more_body:
            self._expect_body()
        else:
            self._expect_nothing()
        if self._withheld > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse()

    def on_headers_complete(self) -> None:
        # One read may bring more than a head may have.
        if len(self.headers) > HEADERS_MAX or (
            self._withheld > HEAD_BYTES_MAX and self._head_bytes() > HEAD_BYTES_MAX
        ):
            self._is_too_large = True
            raise HeadTooLarge
        self._withheld = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._withheld = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        self._expect_nothing()  # an answer may come before its request has ended
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Called when the parser has stopped."""
        if self._is_too_large:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _is_answering(self) -> bool:
        # There is none before the first head is read, whatever uvicorn's types say.
        return bool(self.cycle) and not self.cycle.response_complete

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S_MAX, self.transport.close)

    def _expect_body(self) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(PAUSE_S_MAX, self._miss_body)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _miss_body(self) -> None:
        if self.flow.read_paused:  # it is we who do not read
            self._expect_body()
            return
        if not self.cycle.response_started:
            self._answer(HTTPStatus.REQUEST_TIMEOUT)
        self.transport.close()

    def _refuse(self) -> None:
        if not self._is_answering():  # else it would stand in the midst of that answer
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self.transport.close()

    def _answer(self, status: HTTPStatus) -> None:
        self.transport.write(STATUS_LINE[status] + _NO_BODY)
