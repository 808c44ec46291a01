"""HTTP on a connection, bounded: uvicorn reads a head of any length, for as long as it takes.

A head that is too large is answered 431, one that does not end in time is not answered. A body may be
long, and how long is bounded elsewhere; one of which nothing comes for a while is answered 408. All
of it happens below the application, so the answers are no problems of RFC 9457. What follows a body
(trailers) and stands between its chunks is bounded like a head.

Requests may be pipelined: the one that is read is then not the one that is answered, and what is answered
to the one must not break into the answer to the other.

A client that offers another protocol (`Upgrade`, as Java's does by itself) is answered in this one.
httptools would take the body of such a request for the next request: it is told the body's length again.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.serving.connections import Connections

HEAD_BYTES_MAX = 65_536
# A browser sends twenty or thirty; proxies add a few.
HEADERS_MAX = 256
# From a connection's beginning, or from the first byte after an answer.
HEAD_S_MAX = 10.0
# Between two parts of a body. The source of a load may be slow; a client that has vanished holds its
# answers, and a place in the process, for so long.
PAUSE_S_MAX = 60.0

_NO_BODY = b"content-length: 0\r\nconnection: close\r\n\r\n"
_SAY_HOW_LONG = (b"content-length", b"transfer-encoding")


class HeadTooLarge(Exception):
    """Stops the parser, which makes an error of its own out of it."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP by httptools, with bounds on what it reads before the caller is known."""

    # Bytes since the parser last had something to give: a head, or a part of a body.
    _withheld = 0
    _is_too_large = False
    _deadline: asyncio.TimerHandle | None = None
    # The request whose turn it is to be answered; `cycle` is the one that was read last.
    _turn: RequestResponseCycle | None = None
    # A body that follows an offer to upgrade: what its head says of its length.
    _framing: bytes = b""

    def __init__(self, *arguments: Any, connections: Connections, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._connections = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connections.opened(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._connections.closed(self.transport)
        self._report_disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._withheld += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except HttpParserError:
            too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(too_large if self._is_too_large else HTTPStatus.BAD_REQUEST)
            return
        if self._withheld > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif not self._is_answering():
            self._expect_head()
        elif self._is_reading():
            self._expect_body()
        else:
            self._expect_nothing()

    def on_headers_complete(self) -> None:
        # One read may bring more than a head may have.
        if len(self.headers) > HEADERS_MAX or (
            self._withheld > HEAD_BYTES_MAX and self._head_bytes() > HEAD_BYTES_MAX
        ):
            self._is_too_large = True
            raise HeadTooLarge
        self._withheld = 0
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self._framing = b"".join(
                b"%b: %b\r\n" % header for header in self.headers if header[0] in _SAY_HOW_LONG
            )

    def on_body(self, body: bytes) -> None:
        self._withheld = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._framing:  # or else the body is yet to come
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._expect_nothing()  # an answer may come before its request has ended
        super().on_response_complete()
        if not self._is_answering():
            # What is still to be sent to a slow reader would be lost with the connection.
            if not self.transport.get_write_buffer_size():
                self._connections.idles(self.transport)
        elif self._is_reading():  # the next one, which came before its turn
            self._expect_body()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401
        self._turn = cycle
        super()._start_asgi_task(cycle, app)

    def _feed(self, data: bytes | memoryview) -> None:
        """Have the parser read all, also what follows an offer, at which it stops."""
        while data:
            try:
                self.parser.feed_data(data)
                data = b""
            except HttpParserUpgrade as offer:
                data = memoryview(data)[offer.args[0] :]
            if framing := self._framing:
                self._framing = b""
                self.parser = HttpRequestParser(_PastHead(self))
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as before
                self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)

    def _is_answering(self) -> bool:
        return self._turn is not None and not self._turn.response_complete

    def _is_reading(self) -> bool:
        return self._turn is not None and self._turn is self.cycle and self._turn.more_body

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _expect_head(self) -> None:
        self._connections.awaits_head(self.transport)
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S_MAX, self.transport.close)

    def _expect_body(self) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(PAUSE_S_MAX, self._miss_body)

    def _expect_nothing(self) -> None:
        self._connections.works(self.transport)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _miss_body(self) -> None:
        # This process does not read, so nothing can come.
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._expect_body()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, status: HTTPStatus) -> None:
        """Close the connection, and say why unless that would break into an answer."""
        if self._turn is None or not self._is_answering():
            self._hang_up(status)
        elif self._is_reading() and not self._turn.response_started:
            self._report_disconnect()
            self._hang_up(status)
        else:
            # Not `close`, which would wait for a caller to read an answer that is not going to end.
            self.transport.abort()

    def _hang_up(self, status: HTTPStatus) -> None:
        self.transport.write(httptools_impl.STATUS_LINE[status] + _NO_BODY)
        self.transport.close()

    def _report_disconnect(self) -> None:
        if self._turn is not None and self._is_answering():
            self._turn.disconnected = True
            self._turn.message_event.set()


class _PastHead:
    """Hears what a parser reads, but for the head that it begins with, which was read before."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._is_past = False
        self._hear_headers_complete = self._once_past(protocol.on_headers_complete)
        self.on_message_begin = self._once_past(protocol.on_message_begin)
        self.on_url = self._once_past(protocol.on_url)
        self.on_header = self._once_past(protocol.on_header)
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_headers_complete(self) -> None:
        self._hear_headers_complete()
        self._is_past = True

    def _once_past(self, hear: Callable[..., None]) -> Callable[..., None]:
        return lambda *heard: hear(*heard) if self._is_past else None
