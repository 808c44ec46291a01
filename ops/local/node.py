"""One broker: its files, and its settings, which are written at each start."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ops.local import processes
from ops.local.state import Broker, State, replace_file
from ops.ports import claim, free_ports

HOST = "127.0.0.1"

# Lines of server.properties for a broker; each overrides the line below.
BrokerSettings = Callable[[Broker], Mapping[str, object]]

SETTINGS = """\
process.roles=broker,controller
node.id={broker.node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{broker.port},CONTROLLER://{host}:{broker.controller_port}
advertised.listeners=PLAINTEXT://{host}:{broker.port}
log.dirs={log_dirs}

auto.create.topics.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}

# Few internal partitions and threads, and small buffers: a quick start and little memory.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
# Else a consumer's first poll would wait seconds for other members.
group.initial.rebalance.delay.ms=0
# After this time a silent broker counts as dead; a killed one waits as long to come back.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One broker and the paths of its files."""

    broker: Broker
    home: Path
    records: Path
    settings: Path
    format_settings: Path
    log: Path
    console: Path  # the JVM's output, for errors before it can log
    archive: Path  # where its JVM writes a class archive

    @classmethod
    def within(cls, data: Path, broker: Broker) -> "Node":
        home = data / f"kafka-{broker.node}"
        settings = (home / "server.properties", home / "format.properties")
        logs = (home / "server.log", home / "console.log")
        return cls(broker, home, home / "records", *settings, *logs, home / "learnt.aot")

    def process(self) -> psutil.Process | None:
        return processes.find_one("kafka.Kafka", str(self.settings))

    def claims_its_ports(self) -> bool:
        return all(map(claim, (self.broker.port, self.broker.controller_port)))


def new_brokers(count: int) -> tuple[Broker, ...]:
    ports = iter(free_ports(2 * count))
    return tuple(Broker(node, next(ports), next(ports)) for node in range(1, count + 1))


def nodes(data: Path, state: State) -> list[Node]:
    return [Node.within(data, broker) for broker in state.brokers]


def bootstrap_servers(brokers: Sequence[Broker]) -> str:
    return ",".join(f"{HOST}:{broker.port}" for broker in brokers)


def write_settings(
    path: Path, node: Node, state: State, log_dirs: Path, more: BrokerSettings | None = None
) -> None:
    replicas = len(state.brokers)
    voters = (f"{each.node}@{HOST}:{each.controller_port}" for each in state.brokers)
    content = SETTINGS.format(
        broker=node.broker,
        voters=",".join(voters),
        host=HOST,
        log_dirs=log_dirs,
        replicas=replicas,
        in_sync=min(2, replicas),
    )
    lines = [f"{name}={value}\n" for name, value in (more(node.broker) if more else {}).items()]
    replace_file(path, (content + "".join(lines)).encode())
