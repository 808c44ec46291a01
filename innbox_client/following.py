"""Following a reservation: its transitions as they happen, over server-sent events.

A connection that ends is made again, and `Last-Event-ID` has it go on where it ended, so no transition
is missed and none is told twice.
"""

from collections.abc import Iterator

import httpx
import msgspec
from httpx_sse import EventSource

from innbox_client.errors import UNREADABLE, Unavailable
from innbox_client.results import Transition
from innbox_client.sending import Asked, Attempts, Wire

# Several heartbeats: a server that sends none for so long is gone.
SILENT_S = 60.0
# Nothing becomes of a reservation after these.
LAST = frozenset({"REJECTED", "CANCELLED"})

_TRANSITION = "transition"


def follow(wire: Wire, path: str, after: int | None) -> Iterator[Transition]:
    """Yield the transitions beyond the version `after`, the first one on if it is None.

    Ends when nothing can come any more; until then every ended connection is made again.
    """
    asked = Asked("GET", path, answer_s=SILENT_S)
    attempts = Attempts(wire, asked)
    while True:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        try:
            with attempts.waiting_out():
                with wire.stream(asked, headers) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    attempts.renew()  # until the stream has ended, however long that takes
                    for transition in _transitions(response):
                        after = transition.version
                        yield transition
                        if transition.status in LAST:
                            return
                attempts.pause(ConnectionResetError("the stream has ended"))
        except UNREADABLE as error:
            raise Unavailable(str(asked), error, None) from error


def _transitions(response: httpx.Response) -> Iterator[Transition]:
    for event in EventSource(response).iter_sse():
        if event.event == _TRANSITION:
            yield msgspec.json.decode(event.data, type=Transition)
