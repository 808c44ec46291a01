"""What a call raises.

Problem      the API has answered, and the answer is no (RFC 9457)
Unavailable  no answer of the API's came for as long as the client's patience lasted, or none that
             says what became of the request; repeating it under the same key settles that
"""

from collections.abc import Mapping
from typing import Any, Self

import httpx
import msgspec
from httpx_sse import SSEError

# What reading an answer raises that the API cannot have given, such as a proxy's page.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, SSEError)


class Fault(msgspec.Struct, frozen=True):
    """One fault of a request: where it is in the body, or in which parameter or header."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None

    @property
    def where(self) -> str:
        return self.pointer or self.parameter or self.header or ""


class Problem(Exception):
    """The API's refusal. `code` is the problem's type as a constant: `NOT_FOUND`, `SCOPE_MISSING`.

    `document` is all that the API said, members of this problem's own included. `key` is the one that
    the request was sent under; None if it had none, as when something is only looked at.
    """

    def __init__(
        self,
        status: int,
        document: Mapping[str, Any],
        retry_after_s: float | None = None,
        key: str | None = None,
    ) -> None:
        self.status = status
        self.document = document
        self.retry_after_s = retry_after_s
        self.key = key
        self.type = str(document.get("type", "about:blank"))
        phrase = httpx.codes.get_reason_phrase(status) or f"HTTP status {status}"
        self.title = str(document.get("title") or phrase)
        self.detail = str(document.get("detail") or "")
        self.trace_id: str | None = document.get("traceId")
        self.errors = msgspec.convert(document.get("errors") or [], list[Fault])
        super().__init__(f"{self.title}: {self.detail}" if self.detail else self.title)

    @classmethod
    def of(cls, response: httpx.Response, key: str | None = None) -> Self:
        """Read an answer; one that is no problem document (a proxy's page) is told by its status."""
        # The API never sends the other form of the header, a date.
        after = response.headers.get("Retry-After", "")
        retry_after_s = float(after) if after.isdecimal() else None
        try:
            document = msgspec.json.decode(response.content, type=dict[str, Any])
            return cls(response.status_code, document, retry_after_s, key)
        except UNREADABLE:  # also where `errors` are none of the API's
            return cls(response.status_code, {}, retry_after_s, key)

    @property
    def code(self) -> str:
        if self.type == "about:blank":
            return f"HTTP_{self.status}"
        return self.type.rpartition("/")[2].upper().replace("-", "_")


class Unavailable(Exception):
    """No answer came in time, or none of the API's.

    Call again with `key` to have the request done once, and no more. `last` is what the last attempt
    came to: an error of the network, a `Problem`, what is wrong with the answer, or None if the client
    was closed.
    """

    def __init__(self, request: str, last: Exception | None, key: str | None) -> None:
        self.request = request
        self.last = last
        self.key = key
        self.why = _why(last)
        advice = f"; repeated under the key {key} it is done once" if key else ""
        super().__init__(f"{request}: no answer: {self.why}{advice}")


def _why(last: Exception | None) -> str:
    if last is None:
        return "the client was closed"
    if isinstance(last, UNREADABLE):
        return f"what came is none of the API's: {last}"
    return str(last) or type(last).__name__
