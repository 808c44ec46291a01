"""A proxy before Kafka brokers that reads their requests, and delays, holds, doubles, drops or cuts some.

Brokers advertise the proxy's ports on a listener of their own, so that a client that comes by the proxy
stays behind it, whichever broker it is sent to. A frame is a length and, first of its content, the
request's kind, version and correlation id (Kafka's protocol guide); a response begins with the same
correlation id, and responses come in the order of their requests.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from socket import IPPROTO_TCP, TCP_NODELAY, create_server, socket
from threading import Lock, Thread
from typing import Any

from ops.local import BrokerSettings
from ops.local.state import Broker
from ops.ports import free_ports

HOST = "127.0.0.1"
# A broker that was killed answers no more.
_ANSWER_S_MAX = 5.0
_LOOK_S = 0.01


class Kind(IntEnum):
    """The kinds of requests that faults are made of, by their number in Kafka's protocol."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    OFFSET_COMMIT = 8
    JOIN_GROUP = 11
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    END_TXN = 26


@dataclass(frozen=True, slots=True)
class Frame:
    """One request of a client to a broker, without its length."""

    node: int
    kind: int
    version: int
    correlation_id: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Delay:
    """The frame, and all behind it on its connection, come so much later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HoldAndCut:
    """The client's connection is reset; so long after a condition the frame reaches the broker."""

    seconds: float
    condition: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True)
class Double:
    """The broker gets the frame twice, the client one answer."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The frame is lost on its way, and its connection goes on."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The frame is lost, and the client's connection is reset."""


Fault = Delay | HoldAndCut | Double | Drop | Cut
# What is to befall a frame; it may be called for several connections at a time, one after the other.
Faults = Callable[[Frame], Fault | None]


def no_faults(_: Frame) -> None:
    """Pass everything on."""


@dataclass
class KafkaProxy:
    """Ports for clients, one for each broker; `faults` may be changed at any time."""

    listeners: Mapping[int, socket]
    ports_behind: Mapping[int, int]
    faults: Faults = no_faults
    injected: Counter[Kind] = field(default_factory=Counter)
    connections: set[asyncio.Task[Any]] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(f"{HOST}:{_port(listener)}" for listener in self.listeners.values())

    @property
    def broker_settings(self) -> BrokerSettings:
        """What the brokers must be started with."""
        return self._settings_of

    def judge(self, frame: Frame) -> Fault | None:
        with self._lock:
            fault = self.faults(frame)
            if fault:
                self.injected[Kind(frame.kind)] += 1
        return fault

    def _settings_of(self, broker: Broker) -> Mapping[str, object]:
        own = f"PLAINTEXT://{HOST}:{broker.port}"
        behind = f"PROXIED://{HOST}:{self.ports_behind[broker.node]}"
        proxied = f"PROXIED://{HOST}:{_port(self.listeners[broker.node])}"
        return {
            "listeners": f"{own},CONTROLLER://{HOST}:{broker.controller_port},{behind}",
            "advertised.listeners": f"{own},{proxied}",
            "listener.security.protocol.map": ",".join(
                f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", "PROXIED")
            ),
        }


@contextmanager
def a_kafka_proxy(brokers: int) -> Iterator[KafkaProxy]:
    """A proxy for so many brokers, which are started with its settings afterwards."""
    nodes = range(1, brokers + 1)
    listeners = {node: _listener() for node in nodes}
    proxy = KafkaProxy(listeners, dict(zip(nodes, free_ports(brokers), strict=True)))
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="kafka-proxy")
    thread.start()
    serving = [
        asyncio.run_coroutine_threadsafe(_serve(proxy, node), loop).result() for node in nodes
    ]
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end(proxy, serving), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(proxy: KafkaProxy, node: int) -> asyncio.Server:
    port = proxy.ports_behind[node]

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = (reader, writer)
        task = asyncio.current_task()
        assert task
        proxy.connections.add(task)
        try:
            # Cancelled at the end; asyncio would log that as an error of the server's.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                broker = await asyncio.open_connection(HOST, port)
                await _Connection(proxy, node, client, broker).run()
        finally:
            writer.transport.abort()
            proxy.connections.discard(task)

    return await asyncio.start_server(connected, sock=proxy.listeners[node])


async def _end(proxy: KafkaProxy, serving: list[asyncio.Server]) -> None:
    """End every connection. asyncio's own tasks end by themselves: they have sockets to hand over."""
    for server in serving:
        server.close()
    this = asyncio.current_task()
    while others := {task for task in asyncio.all_tasks() if task is not this}:
        for task in proxy.connections:
            task.cancel()
        await asyncio.wait(others, timeout=_LOOK_S)
    await asyncio.sleep(
        _LOOK_S
    )  # transports that were aborted are closed in later turns of the loop


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """One client's connection, and the one to the broker behind it."""

    def __init__(self, proxy: KafkaProxy, node: int, client: _Streams, broker: _Streams) -> None:
        self._proxy = proxy
        self._node = node
        self._client_reader, self._client_writer = client
        self._broker_reader, self._broker_writer = broker
        self._unwanted: Counter[int] = Counter()

    async def run(self) -> None:
        answering = asyncio.create_task(self._answer())
        requesting = asyncio.create_task(self._request())
        try:
            await asyncio.wait((answering, requesting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, requesting):
                task.cancel()
            await asyncio.gather(answering, requesting, return_exceptions=True)
            self._broker_writer.transport.abort()

    async def _request(self) -> None:
        """Pass requests on until the client goes, or is cut off."""
        while True:
            content = await _read(self._client_reader)
            kind, version, correlation_id = struct.unpack_from(">hhi", content)
            frame = Frame(self._node, kind, version, correlation_id, content)
            match self._proxy.judge(frame):
                case None:
                    _write(self._broker_writer, content)
                case Delay(seconds=seconds):
                    await asyncio.sleep(seconds)
                    _write(self._broker_writer, content)
                case Double():
                    self._unwanted[correlation_id] += 1
                    _write(self._broker_writer, content)
                    _write(self._broker_writer, content)
                case Drop():
                    continue
                case Cut():
                    return
                case HoldAndCut(seconds=seconds, condition=condition):
                    self._client_writer.transport.abort()
                    while not condition():  # noqa: ASYNC110 - another thread may make it true
                        await asyncio.sleep(_LOOK_S)
                    await asyncio.sleep(seconds)
                    _write(self._broker_writer, content)
                    await asyncio.sleep(_ANSWER_S_MAX)
                    return

    async def _answer(self) -> None:
        while True:
            content = await _read(self._broker_reader)
            (correlation_id,) = struct.unpack_from(">i", content)
            if self._unwanted[correlation_id]:
                self._unwanted[correlation_id] -= 1
            elif not self._client_writer.is_closing():
                _write(self._client_writer, content)


async def _read(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(length)


def _write(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(struct.pack(">i", len(content)) + content)


def _listener() -> socket:
    listener = create_server((HOST, 0))
    # Accepted sockets inherit this. asyncio sets it for none that was made so, and frames would wait.
    listener.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    return listener


def _port(listener: socket) -> int:
    return int(listener.getsockname()[1])
