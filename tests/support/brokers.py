"""One broker of the embedded Kafka: killed, and started again."""

from pathlib import Path

from ops.local import jars, kafka, processes
from ops.local.kafka import BrokerSettings, nodes
from ops.local.state import LOCK_FILE, State, exclusive, load


def kill_broker(data: Path, node: int = 1) -> None:
    """SIGKILL one broker, like a crash; takes no lock."""
    process = nodes(data.resolve(), _state(data))[node - 1].process()
    processes.kill([process] if process else [])


def start_broker(
    data: Path, node: int = 1, *, kafka_settings: BrokerSettings | None = None
) -> None:
    """Start one broker again, on its old port."""
    data, state = data.resolve(), _state(data)
    with exclusive(data / LOCK_FILE, print):
        some = [nodes(data, state)[node - 1]]
        kafka.start(some, state, jars.class_path(print), print, kafka_settings)


def _state(data: Path) -> State:
    state = load(data)
    assert state is not None, "its servers were started"
    return state
