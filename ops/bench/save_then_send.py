"""Save, then send: innbox's own API and consumers, as the design that innbox replaces has them.

The API commits the reservation, then sends the event inside the request and waits for the brokers to
acknowledge it. The rooms commit a message, then send the answer and wait likewise. There is no outbox and
no relay: what a crash leaves between the commit and the sending is lost.

    commit ──► send ──► acknowledged ──► response
           ▲
           └── a crash here: a reservation without an event

The benchmark starts `python -m ops.bench.save_then_send api | rooms | results`, the consumers with a
transaction and an offset commit for each message (`BATCH_SIZE_MAX=1`). Tokens, keys, transitions, topics
and headers are innbox's, and so is the producer's configuration.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from threading import Thread
from typing import Any
from unittest.mock import patch
from uuid import UUID

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer
from sqlalchemy import Connection

import outbox
from api.reservations.appending import AsyncDoorbell
from consumers.rooms import RoomsHandler
from domain.answers import RoomRequest
from domain.messages import TOPICS, VALUE_BYTES_MAX
from ops.cli import main
from outbox import Appendable
from relay.publishing.producer import producer_properties
from runtime.pipeline import PipelinePool, Rows, Statement
from runtime.settings import Settings, load_settings

_LIMITS = dict.fromkeys(TOPICS, VALUE_BYTES_MAX)
_execute = PipelinePool.execute


class Sender:
    """A producer whose acknowledgements are waited for: by the event loop, or by a thread."""

    def __init__(self, settings: Settings) -> None:
        reported = {"delivery.report.only.error": False}
        self._producer = Producer(producer_properties(settings.kafka) | reported)
        self._prefix = settings.kafka_prefix
        self._poller: Thread | None = None

    async def sent(self, message: Mapping[str, Any], value: bytes) -> None:
        """Send a message that `outbox.prepare` has made, and wait until it is acknowledged."""
        if self._poller is None:
            # Not before: a thread that waits with `flush` would miss what this one hears.
            self._poller = Thread(target=self._poll, name="sender", daemon=True)
            self._poller.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def heard(error: KafkaError | None, _: object) -> None:
            loop.call_soon_threadsafe(_end, done, error)

        self._send(message, value, on_delivery=heard)
        await done

    def send(self, messages: Sequence[Appendable]) -> None:
        """Send messages, and wait until all are acknowledged."""
        for message in messages:
            self._send(outbox.prepare(message, _LIMITS), message.value)
        self._producer.flush()

    def _send(self, message: Mapping[str, Any], value: bytes, **more: Any) -> None:  # noqa: ANN401 - a callback
        topic, key = self._prefix + message["outbox_topic"], message["outbox_key"]
        headers = msgspec.json.decode(message["outbox_headers"])
        self._producer.produce(topic, value, key, headers=headers, **more)

    def _poll(self) -> None:
        while True:
            self._producer.poll(1.0)


class SendingRooms(RoomsHandler):
    """Sends its answers when they are committed."""

    sender: Sender

    def apply(self, connection: Connection, requests: Sequence[RoomRequest]) -> Mapping[UUID, str]:
        self._answers: list[Appendable] = []

        def keep(_: object, messages: Sequence[Appendable]) -> None:
            self._answers += messages

        with patch.object(outbox, "append", keep):
            return super().apply(connection, requests)

    def committed(self, requests: Sequence[RoomRequest]) -> None:  # noqa: ARG002
        self.sender.send(self._answers)


def append_nothing(*, value: str, rows: str) -> str:  # noqa: ARG001
    """Stand in for `outbox.append_within`: no row is written."""
    return f"SELECT FROM {rows}"


def executing(sender: Sender) -> Any:  # noqa: ANN401 - a method
    """Return `PipelinePool.execute`, which also sends the message of what it has committed."""

    async def execute(
        self: PipelinePool,
        statements: Sequence[Statement],
        **more: Any,  # noqa: ANN401
    ) -> list[Rows]:
        rows = await _execute(self, statements, **more)
        binds: Mapping[str, Any] = statements[-1][1]
        if "outbox_topic" in binds and (id_ := rows[-1][0][0]) is not None:
            await sender.sent(binds, b"%b%d%b" % (binds["value_head"], id_, binds["value_tail"]))
        return rows

    return execute


def _end(done: asyncio.Future[None], error: KafkaError | None) -> None:
    if done.done():  # the request was given up
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(KafkaException(error))


if __name__ == "__main__":
    with ExitStack() as patched:
        SendingRooms.sender = sender = Sender(load_settings())
        for target, stand_in in {
            "api.app.append_within": append_nothing,
            "consumers.process.RoomsHandler": SendingRooms,
        }.items():
            patched.enter_context(patch(target, stand_in))
        patched.enter_context(patch.object(PipelinePool, "execute", executing(sender)))
        # Nobody would hear it.
        patched.enter_context(patch.object(AsyncDoorbell, "ring", lambda _: None))
        main()
