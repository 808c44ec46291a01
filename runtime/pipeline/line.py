"""A connection's socket, watched by the event loop for as long as the connection lives.

To begin to watch a socket and to end it are seven system calls and some objects of uvloop: for each
transaction they would cost more than to send it does.
"""

import asyncio

# uvloop does not tell the reader of a socket that it was reset: the waiting code checks that itself.
_LOOK_S = 0.5


class Line:
    """Tells a coroutine that something has come. Belongs to one event loop; one may wait at a time."""

    def __init__(self, socket: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._socket = socket
        self._waiter: asyncio.Future[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        self.is_watched = False

    async def stirred(self, *, is_sent: bool) -> None:
        """Wait until something comes, more can be sent, or half a second has passed; it may be less."""
        if not self.is_watched:
            self.is_watched = True
            self.loop.add_reader(self._socket, self._stir)
        if not is_sent:
            self.loop.add_writer(self._socket, self._wake)
        if self._look is None:  # one for many waits: a timer for each would cost each of them
            self._look = self.loop.call_later(_LOOK_S, self._look_up)
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            if not is_sent:
                self.loop.remove_writer(self._socket)

    def close(self) -> None:
        """Watch no more. Before the socket is closed: its number may be another's from then on."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._ignore()

    def _ignore(self) -> None:
        if self.is_watched and not self.loop.is_closed():
            self.loop.remove_reader(self._socket)
        self.is_watched = False

    def _stir(self) -> None:
        if self._waiter is None:  # the server hangs up, which the next wait will find out
            self._ignore()
        self._wake()

    def _look_up(self) -> None:
        self._look = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
