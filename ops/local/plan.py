"""The decisions of a first start that later starts keep: ports, the cluster's identity and its size."""

import base64
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from ops.local.errors import LocalError
from ops.local.node import Node, nodes
from ops.local.postgres import Postgres
from ops.local.state import Broker, State
from ops.ports import claim, free_ports

Part = Literal["postgres", "kafka"]
CLUSTER_SIZES = (1, 3)


def decide(data: Path, state: State, brokers: int, parts: Collection[Part]) -> State:
    """Return the state with the choices that this start needs: earlier ones, where still possible."""
    if "postgres" in parts and not _keeps_port(data, state):
        state = replace(state, postgres_port=free_ports(1)[0])
    if "kafka" in parts:
        state = _decide_brokers(data, state, brokers)
    return state


def _keeps_port(data: Path, state: State) -> bool:
    if Postgres.within(data).process():
        return True
    return bool(state.postgres_port) and claim(state.postgres_port)


def _decide_brokers(data: Path, state: State, count: int) -> State:
    if count not in CLUSTER_SIZES:
        raise LocalError(f"A cluster has 1 or 3 brokers, not {count}.")
    if state.brokers and len(state.brokers) != count:
        raise LocalError(
            f"{data} holds a cluster of {len(state.brokers)} brokers, which cannot change to "
            f"{count}. Use --brokers {len(state.brokers)}, reset it, or choose another directory."
        )
    if not state.brokers:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        return replace(state, kafka_cluster=cluster, brokers=_new_brokers(count))
    some = nodes(data, state)
    if any(node.process() for node in some) or all(map(_has_its_ports, some)):
        # While one broker runs, the others must keep the ports that it has of them.
        return state
    return replace(state, brokers=_new_brokers(count))


def _new_brokers(count: int) -> tuple[Broker, ...]:
    ports = free_ports(2 * count)
    return tuple(
        Broker(node=node, port=ports[2 * node - 2], controller_port=ports[2 * node - 1])
        for node in range(1, count + 1)
    )


def _has_its_ports(node: Node) -> bool:
    return all(map(claim, (node.broker.port, node.broker.controller_port)))
