"""The embedded servers keep data and ports, recover from accidents, and touch only their own."""

import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ops import local
from ops.local import Servers, jars, postgres
from ops.local.processes import find, wait_until
from ops.local.state import Broker, State, exclusive, save
from ops.ports import free_port
from tests.support.brokers import kill_broker, start_broker

PATIENCE_S = 60
TOPIC = "a-topic"
# A child process that looks after servers, and says what it does.
CHILD = """
import sys
from pathlib import Path
from ops import local
report = lambda said: print(said, flush=True)
{action}
"""
START = "local.start(Path(sys.argv[1]), durable=False, report=report)"
RUNNING = """
with local.running(Path(sys.argv[1]), durable=False, report=report):
    report("All are up.")
    sys.stdin.read()
"""


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose servers end with the test, whatever it did."""
    folder = tmp_path / "servers"
    yield folder
    if (folder / "servers.json").exists():
        local.stop(folder)
    assert processes_of(folder) == []


def test_data_and_ports_survive_stop_and_start(data: Path) -> None:
    """A committed row and an acknowledged record are there after the servers come back.

    They outlive who started them, and have none of its files: a socket would stay taken.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.set_inheritable(True)  # as what a shell or another program hands on to us
        first = local.start(data)
        ports = listened_on(data)
        assert ports >= {row.port for row in local.status(data)}
        assert listener.getsockname()[1] not in ports
    write_row(first, "kept")
    write_record(first, b"kept")

    local.stop(data)
    assert processes_of(data) == []
    assert [row.state for row in local.status(data)] == ["stopped", "stopped"]

    second = local.start(data)
    assert second == first
    assert rows(second) == ["kept"]
    assert record(second) == b"kept"


def test_a_start_keeps_servers_that_run(data: Path) -> None:
    """Starting twice, even at the same time, gives the same servers."""
    given: list[local.Servers] = []
    starts = [threading.Thread(target=lambda: given.append(start_postgres(data))) for _ in range(2)]
    for each in starts:
        each.start()
    for each in starts:
        each.join()
    before = local.status(data)

    assert given == [start_postgres(data)] * 2
    assert local.status(data) == before


def test_only_the_asked_part_is_started(data: Path) -> None:
    servers = start_postgres(data)

    assert servers.kafka_bootstrap_servers == ""
    assert [row.name for row in local.status(data)] == ["postgres"]


@pytest.mark.parametrize(
    "moment", ["Creating the Postgres", "Formatting the storage", "Postgres is ready"]
)
def test_a_start_killed_halfway_is_made_good_by_the_next(data: Path, moment: str) -> None:
    child = a_child(START, data)
    wait_for_line(child, moment)
    child.kill()
    child.communicate()

    servers = local.start(data, durable=False)

    assert rows(servers) == []
    assert brokers_known(servers.kafka_bootstrap_servers) == {1}
    assert len(at_work(str(data / "postgres"))) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_servers_end_with_the_process_that_runs_them(data: Path, number: signal.Signals) -> None:
    """Asked to end, a process takes its servers along before it goes."""
    child = a_child(RUNNING, data)
    wait_for_line(child, "All are up.")
    assert len(processes_of(data)) == 2

    child.send_signal(number)
    child.communicate(timeout=PATIENCE_S)

    assert processes_of(data) == []


def test_a_block_leaves_servers_running_that_ran_before(data: Path) -> None:
    before = start_postgres(data)

    with local.running(data, parts=["postgres"]) as servers:
        assert servers == before

    assert rows(before) == []


def test_a_reused_process_id_does_not_bar_the_start(data: Path) -> None:
    """Postgres itself would take any process with the old id for a running server."""
    servers = start_postgres(data)
    write_row(servers, "kept")
    (postmaster,) = at_work(str(data / "postgres"))
    pid_file = data / "postgres" / "postmaster.pid"
    left = pid_file.read_text().splitlines()
    postmaster.kill()
    psutil.wait_procs([postmaster], timeout=PATIENCE_S)
    as_its_user = postgres.account_for(data, print).prefix
    with subprocess.Popen([*as_its_user, "sleep", "60"]) as bystander:
        pid_file.write_text("\n".join([str(bystander.pid), *left[1:]]))

        assert rows(start_postgres(data)) == ["kept"]
        assert bystander.poll() is None
        bystander.kill()


def test_a_taken_port_is_given_up(data: Path) -> None:
    first = start_postgres(data)
    (row,) = local.status(data)
    local.stop(data)

    with socket.create_server(("127.0.0.1", row.port)):
        second = start_postgres(data)

    assert second.database_url != first.database_url
    assert rows(second) == []


def test_a_failed_start_names_the_log_and_quotes_it(data: Path) -> None:
    start_postgres(data)
    local.stop(data)
    with (data / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")

    with pytest.raises(local.LocalError) as failure:
        start_postgres(data)

    assert str(data / "postgres.log") in str(failure.value)
    assert "no_such_setting" in str(failure.value)


def test_reset_erases_what_was_made_here_and_nothing_else(data: Path) -> None:
    start_postgres(data)
    (data / "a-letter").write_text("mine")

    local.reset(data)

    assert [entry.name for entry in data.iterdir()] == ["a-letter"]
    (data / "a-letter").unlink()
    start_postgres(data)
    local.reset(data)
    assert not data.exists()


def test_what_up_leaves_is_ours_and_goes_with_a_reset(data: Path) -> None:
    """Also where the servers were somebody else's, so that nothing marks the directory."""
    (data / "logs").mkdir(parents=True)
    ours = ("jwt.key", "jwt.1234", "up.lock", "api.url", "logs/api.log", "logs/relay-rooms.log")
    for name in ours:
        (data / name).touch()

    start_postgres(data)
    local.reset(data)

    assert not data.exists()


def test_a_reset_keeps_the_logs_of_others(data: Path) -> None:
    (data / "logs").mkdir(parents=True)
    (data / "logs" / "rooms.log").touch()
    (data / "logs" / "diary.log").touch()

    local.reset(data)

    assert [entry.name for entry in (data / "logs").iterdir()] == ["diary.log"]


def test_a_stop_says_what_it_did(data: Path) -> None:
    said: list[str] = []
    local.stop(data, report=said.append)
    start_postgres(data)
    with local.running(data, parts=["postgres"], report=said.append):
        said.clear()
    local.stop(data, report=said.append)
    local.stop(data, report=said.append)

    assert said == [
        "The servers ran before and still run.",
        "The servers have stopped.",
        "The servers were not running.",
    ]


def test_a_lock_names_nobody_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "a.lock", print):
        raise ZeroDivisionError
    assert (tmp_path / "a.lock").read_text() == ""


@pytest.mark.parametrize("call", [local.start, local.reset])
def test_a_foreign_directory_is_refused(tmp_path: Path, call: Callable[[Path], object]) -> None:
    (tmp_path / "postgres").mkdir()

    with pytest.raises(local.LocalError, match=str(tmp_path)):
        call(tmp_path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["postgres"]


def test_three_brokers_are_one_cluster_and_outlive_the_death_of_one(data: Path) -> None:
    """With one of three killed, records are still acknowledged and read; it comes back in place."""
    servers = local.start(data, brokers=3, parts=["kafka"])
    assert brokers_known(servers.kafka_bootstrap_servers) == {1, 2, 3}
    write_record(servers, b"before", replicas=3)

    kill_broker(data, 1)
    assert wait_until(
        lambda: brokers_known(servers.kafka_bootstrap_servers) == {2, 3}, timeout_s=PATIENCE_S
    )
    produce(servers, b"after")
    assert record(servers) == b"before"
    assert [row.state for row in local.status(data)] == ["stopped", "running", "running"]

    start_broker(data, 1)
    assert brokers_known(servers.kafka_bootstrap_servers.split(",")[0]) == {1, 2, 3}

    with pytest.raises(local.LocalError, match="holds a cluster of 3"):
        local.start(data, brokers=1)


def test_the_broker_of_another_cluster_is_not_taken_for_ours(data: Path, servers: Servers) -> None:
    """It holds our broker's port, and answers before ours has died of that."""
    port = int(servers.kafka_bootstrap_servers.split(",")[0].rpartition(":")[2])
    data.mkdir()
    save(
        data, State(kafka_cluster="innbox-another-cluster", brokers=(Broker(1, port, free_port()),))
    )

    with pytest.raises(local.LocalError, match="broker 1 did not start"):
        start_broker(data)


def test_a_truncated_jar_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete, damaged, victim = a_damaged_cache(tmp_path, monkeypatch)

    with a_mirror(monkeypatch, lambda name: (complete / name).read_bytes()) as asked:
        jars.class_path(print)

    assert (damaged / victim).read_bytes() == (complete / victim).read_bytes()
    assert {name.removesuffix(".sha1") for name in asked} == {victim}


def test_a_jar_with_other_content_than_pinned_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_damaged_cache(tmp_path, monkeypatch)

    with (
        a_mirror(monkeypatch, lambda _: b"malice"),
        pytest.raises(local.LocalError, match="checksum"),
    ):
        jars.class_path(print)


def test_an_unreachable_registry_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what was tried, and every way out."""
    with closing(socket.create_server(("127.0.0.1", 0))) as closed_soon:
        nobody = f"http://127.0.0.1:{closed_soon.getsockname()[1]}"
    monkeypatch.setenv("INNBOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INNBOX_MAVEN_REPOSITORY", nobody)

    with pytest.raises(local.LocalError) as failure:
        local.start(tmp_path / "servers", parts=["kafka"])

    ways_out = ("INNBOX_MAVEN_REPOSITORY", "INNBOX_CACHE", "KAFKA_BOOTSTRAP_SERVERS")
    assert all(word in str(failure.value) for word in (nobody, *ways_out))


def start_postgres(data: Path) -> local.Servers:
    return local.start(data, durable=False, parts=["postgres"])


def processes_of(data: Path) -> list[psutil.Process]:
    """Every process whose command line names the directory, but for us and our children."""
    places = (
        str(data / "postgres"),
        *(str(data / f"kafka-{n}/server.properties") for n in (1, 2, 3)),
    )
    return [process for place in places for process in at_work(place)]


def at_work(place: str) -> list[psutil.Process]:
    """Without children: until they rewrite their command line, it is that of the server."""
    found = find(place)
    servers = {process.pid for process in found}
    return [process for process in found if parent_of(process) not in servers]


def listened_on(data: Path) -> set[int]:
    """The ports on which the directory's servers listen."""
    return {
        connection.laddr.port
        for process in processes_of(data)
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


def parent_of(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return 0


def a_child(action: str, data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(action=action), str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def wait_for_line(child: subprocess.Popen[str], beginning: str) -> None:
    assert child.stdout is not None
    assert any(line.startswith(beginning) for line in child.stdout)


def connection(servers: local.Servers) -> psycopg.Connection:
    plain = servers.database_url.replace("+psycopg", "")
    return psycopg.connect(plain, autocommit=True)


def write_row(servers: local.Servers, content: str) -> None:
    with connection(servers) as database:
        database.execute("CREATE TABLE note (content text)")
        database.execute("INSERT INTO note VALUES (%s)", [content])


def rows(servers: local.Servers) -> list[str]:
    with connection(servers) as database:
        if database.execute("SELECT to_regclass('note')").fetchone() == (None,):
            return []
        return [row[0] for row in database.execute("SELECT content FROM note")]


def write_record(servers: local.Servers, value: bytes, *, replicas: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": servers.kafka_bootstrap_servers})
    topic = NewTopic(TOPIC, num_partitions=1, replication_factor=replicas)
    admin.create_topics([topic])[TOPIC].result(PATIENCE_S)
    produce(servers, value)


def produce(servers: local.Servers, value: bytes) -> None:
    """Return when the record is acknowledged by all brokers that are in sync."""
    refused: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _: object) -> None:
        if error:
            refused.append(error)

    producer = Producer({"bootstrap.servers": servers.kafka_bootstrap_servers, "log_level": 0})
    producer.produce(TOPIC, value, on_delivery=on_delivery)
    assert producer.flush(PATIENCE_S) == 0
    assert refused == []


def record(servers: local.Servers) -> bytes | None:
    """The first record of the topic."""
    reader = Consumer(
        {
            "bootstrap.servers": servers.kafka_bootstrap_servers,
            "group.id": "nobody",
            "log_level": 0,
        }
    )
    with closing(reader):
        reader.assign([TopicPartition(TOPIC, 0, 0)])
        (found,) = reader.consume(1, PATIENCE_S)
        return found.value()


def brokers_known(bootstrap_servers: str) -> set[int]:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        return set(admin.list_topics(timeout=30).brokers)
    except KafkaException:
        return set()


def a_damaged_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, str]:
    """A complete cache, a copy of it in use, and the jar that is truncated in the copy."""
    jars.class_path(print)
    complete = jars.folder()
    monkeypatch.setenv("INNBOX_CACHE", str(tmp_path / "cache"))
    shutil.copytree(complete, jars.folder())
    victim = jars.folder() / "slf4j-api-1.7.36.jar"
    os.truncate(victim, 1_000)
    return complete, jars.folder(), victim.name


@contextmanager
def a_mirror(
    monkeypatch: pytest.MonkeyPatch, content: Callable[[str], bytes]
) -> Iterator[list[str]]:
    """A Maven repository on loopback, in use; yields the names of the files asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rsplit("/", maxsplit=1)[-1]
            asked.append(name)
            found = name.endswith(".jar")
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                self.wfile.write(content(name))

        def log_message(self, *_: object) -> None:
            """Say nothing on the console."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("INNBOX_MAVEN_REPOSITORY", f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield asked
        finally:
            server.shutdown()
            serving.join()
