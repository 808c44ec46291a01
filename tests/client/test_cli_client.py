"""`innbox reserve`, `cancel`, `reservations` …: the API's commands, as people and scripts meet them."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader, BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest
from sqlalchemy import Engine

from api.identity.scopes import INVENTORY, READ, STAFF, WRITE
from api.identity.signing import sign
from innbox_client import Innbox, Problem, Unavailable
from ops.cli.api_client import explained
from ops.cli.dates import WEEKDAYS, Day, weekdays
from ops.cli.loading import format_of
from ops.cli.reservations import list_, reserve
from ops.stack import only_one, published_url, running_url
from runtime.settings import Settings
from tests.support.api_client import ANOTHER, ME, Api, Wire, an_api, count, today
from tests.support.commands import innbox as run
from tests.support.waiting import eventually
from tests.support.whole_saga import everything

CHECK_IN = today() + timedelta(days=30)
CHECK_OUT = CHECK_IN + timedelta(days=3)
STAY = ("--check-in", str(CHECK_IN), "--check-out", str(CHECK_OUT))
NIGHTS = ("--from", str(CHECK_IN), "--to", str(CHECK_OUT))
NOBODY = "http://127.0.0.1:1"


class Terminal:
    """A person with a URL and a token in the environment."""

    def __init__(self, data: Path, api: Api, url: str = "", *scopes: str) -> None:
        self._data = data
        token = sign(api.settings, ME, scopes or (READ, WRITE, INVENTORY))
        self.environment = {"INNBOX_URL": url or api.url, "INNBOX_TOKEN": token}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(*words, data=self._data, environment=self.environment)

    def begun(self, *words: str) -> subprocess.Popen[bytes]:
        """Begin a command that goes on until it gets its input, or is interrupted."""
        return subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "--data", str(self._data), *words],
            env={"PATH": os.environ["PATH"], **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def json(self, *words: str, code: int = 0) -> Any:
        ended = self(*words, "--json")
        assert ended.returncode == code, ended.stderr
        return json.loads(ended.stdout)


@pytest.fixture
def terminal(tmp_path: Path, api: Api) -> Terminal:
    return Terminal(tmp_path, api)


@pytest.mark.parametrize(
    "command",
    [
        "reserve",
        "cancel",
        "reservations",
        "reservations list",
        "reservations watch",
        "availability",
        "inventory",
        "inventory set",
        "inventory load",
    ],
)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    shown = run(*command.split(), "--help", data=tmp_path)
    assert shown.returncode == 0
    assert f"Usage: innbox {command}" in shown.stdout


def test_a_stay_is_found_reserved_looked_at_and_cancelled(
    tmp_path: Path, settings: Settings
) -> None:
    with everything(settings), an_api(settings.database_url) as api:
        innbox = Terminal(tmp_path, api)
        assert innbox("inventory", "set", "7", *NIGHTS, "--capacity", "1").returncode == 0
        found = innbox.json("availability", *STAY)
        assert [room["roomId"] for room in found["rooms"]] == [7]

        made = innbox.json("reserve", "--room", "7", *STAY, "--wait", "20", "--key", "party")
        again = innbox.json("reserve", "--room", "7", *STAY, "--key", "party")
        assert made["status"] == "CONFIRMED"
        assert again["id"] == made["id"]
        late = innbox("reserve", "--room", "7", *STAY, "--wait", "20")
        assert late.returncode == 1
        assert "SOLD_OUT" in late.stdout
        assert innbox("availability", *STAY, "--room", "7").returncode == 1

        id_ = str(made["id"])
        shown = innbox("reservations", "show", id_)
        assert f"{WEEKDAYS[CHECK_IN.weekday()][:3].title()} {CHECK_IN}" in shown.stdout
        listed = innbox.json("reservations", "--status", "rejected", "--room", "7")
        assert [one["reasonCode"] for one in listed["reservations"]] == ["SOLD_OUT"]
        assert innbox.json("cancel", id_, "--wait", "20")["status"] == "CANCELLED"

        told = innbox.json("reservations", "history", id_)["history"]
        watched = innbox("reservations", "watch", id_, "--json")
        assert [json.loads(line) for line in watched.stdout.splitlines()] == told
        first = innbox("reservations", "watch", id_, "--until-answered")
        assert [line.split()[4] for line in first.stdout.splitlines()] == ["PENDING", "CONFIRMED"]


def test_staff_reserve_for_a_member_and_find_it(tmp_path: Path, api: Api) -> None:
    staff = Terminal(tmp_path, api, api.url, READ, WRITE, STAFF)
    made = staff.json("reserve", "--room", "7", *STAY, "--member", str(ANOTHER))
    assert made["memberId"] == ANOTHER
    found = staff.json("reservations", "list", "--member", str(ANOTHER))["reservations"]
    assert [one["id"] for one in found] == [made["id"]]
    stranger = Terminal(tmp_path, api)("reservations", "show", str(made["id"]))
    assert stranger.returncode == 1
    assert "Not found (404)" in stranger.stderr


def test_a_calendar_is_set_by_weekday_and_shown_with_its_rules(terminal: Terminal) -> None:
    """What is not named keeps its value."""
    january = ("7", "--from", "2027-01-01", "--to", "2027-01-08")
    assert terminal("inventory", "rename", "7", "Suite [lake]").returncode == 0
    assert terminal("inventory", "set", *january, "--capacity", "2").returncode == 0
    weekend = ("--weekdays", "sat,Sunday", "--min-stay", "2", "--closed-to-departure")
    assert terminal.json("inventory", "set", *january, *weekend)["nights"] == 2
    assert terminal.json("inventory", "set", *january, "--closed")["nights"] == 7

    shown = terminal("inventory", "show", *january).stdout
    assert "Suite [lake]" in shown
    [saturday] = [line for line in shown.splitlines() if "Sat 2027-01-02" in line]
    assert "closed, 2 nights or more, no departure" in saturday
    assert terminal.json("inventory", "set", *january, "--open")["nights"] == 7
    nights = terminal.json("inventory", "show", *january)["nights"]
    assert {night["closed"] for night in nights} == {False}
    assert {night["capacity"] for night in nights} == {2}
    assert [room["name"] for room in terminal.json("inventory", "rooms")["rooms"]] == [
        "Suite [lake]"
    ]


def test_a_problem_is_told_with_its_place_and_its_trace(terminal: Terminal) -> None:
    refused = terminal(
        "reserve", "--room", "7", "--check-in", str(CHECK_OUT), "--check-out", str(CHECK_IN)
    )
    assert refused.returncode == 1
    assert "Invalid stay (422)" in refused.stderr
    assert "#/checkOutDate" in refused.stderr
    assert "Trace " in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("environment", "advice"),
    [
        ({}, "innbox up"),
        ({"INNBOX_URL": NOBODY}, "INNBOX_TOKEN"),
        ({"INNBOX_URL": NOBODY, "INNBOX_TOKEN": "x"}, "Is the API running?"),
        ({"INNBOX_URL": "innbox.example", "INNBOX_TOKEN": "x"}, "is not a URL"),
        ({"INNBOX_URL": "http://[::1", "INNBOX_TOKEN": "x"}, "is not a URL"),
    ],
    ids=["no API is known", "no token", "nobody listens", "no URL", "a broken URL"],
)
def test_what_is_missing_is_said(environment: dict[str, str], advice: str, tmp_path: Path) -> None:
    refused = run("reservations", "--patience", "0", data=tmp_path, environment=environment)
    assert refused.returncode == 2
    assert advice in refused.stderr
    assert "Traceback" not in refused.stderr


def test_after_a_lost_answer_the_key_is_told_and_repeating_doubles_nothing(
    tmp_path: Path, api: Api, engine: Engine
) -> None:
    wire = Wire(api.url)
    innbox = Terminal(tmp_path, api, wire.url)
    wire.cut_after(b'"roomId"')
    lost = innbox("reserve", "--room", "7", *STAY, "--patience", "0")
    assert lost.returncode == 2
    key = lost.stderr.partition("--key ")[2].split()[0]
    eventually(lambda: count(engine, "reservations.reservation") == 1)
    assert innbox("reserve", "--room", "7", *STAY, "--key", key).returncode == 0
    assert count(engine, "reservations.reservation") == 1
    wire.close()


def test_ctrl_c_tells_the_key_under_which_nothing_is_doubled(
    terminal: Terminal, engine: Engine
) -> None:
    words = ("reserve", "--room", "7", *STAY)
    with terminal.begun(*words, "--wait", "30") as waiting:
        eventually(lambda: count(engine, "reservations.reservation") == 1)
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate()
    assert waiting.returncode == 130
    key = said.decode().partition("--key ")[2].split()[0]
    assert terminal.json(*words, "--key", key)["status"] == "PENDING"
    assert count(engine, "reservations.reservation") == 1


def test_nights_are_set_and_rooms_named_under_a_key_as_well(terminal: Terminal) -> None:
    """Whoever lost an answer is told to repeat the command with it."""
    for words in (
        ("inventory", "rename", "7", "Suite"),
        ("inventory", "set", "7", *NIGHTS, "--capacity", "1"),
    ):
        first = terminal.json(*words, "--key", words[1])
        assert terminal.json(*words, "--key", words[1]) == first
    other = terminal("inventory", "rename", "7", "Other", "--key", "rename")
    assert other.returncode == 1
    assert "(422)" in other.stderr


def test_a_token_that_is_not_accepted_is_no_refusal_of_what_was_asked_for(
    terminal: Terminal,
) -> None:
    terminal.environment["INNBOX_TOKEN"] = "expired"
    refused = terminal("reservations")
    assert refused.returncode == 2
    assert "(401)" in refused.stderr


def test_who_waits_and_gets_no_answer_is_told_and_has_an_exit_code_of_its_own(
    terminal: Terminal,
) -> None:
    """A script must not take it for confirmed; without `--wait` to be accepted is all there is."""
    words = ("reserve", "--room", "7", *STAY)
    accepted = terminal(*words)
    assert accepted.returncode == 0
    assert "not answered" not in accepted.stderr
    made = terminal(*words, "--wait", "1", "--json")
    id_ = str(json.loads(made.stdout)["id"])
    assert made.returncode == 3
    assert "not answered" in made.stderr
    assert f"watch {id_}" in made.stderr
    assert terminal("cancel", id_, "--wait", "1").returncode == 3
    assert terminal("cancel", id_).returncode == 0


@pytest.mark.parametrize("status", [200, 404])
def test_what_is_no_api_is_said_in_a_line(status: int, tmp_path: Path) -> None:
    """A proxy's page is neither an answer nor a refusal."""
    with _a_page(status) as url:
        environment = {"INNBOX_URL": url, "INNBOX_TOKEN": "x"}
        for words in (("reservations",), ("inventory", "rename", "7", "Suite")):
            ended = run(*words, data=tmp_path, environment=environment)
            assert ended.returncode == 2
            assert "Traceback" not in ended.stderr
            assert ("--key" in ended.stderr) == (status == 200 and "rename" in words)


@pytest.mark.unit
def test_the_url_that_a_killed_system_left_is_not_believed(tmp_path: Path) -> None:
    """Whoever listens there now would get a token for everything."""
    (tmp_path / "api.url").write_text(NOBODY)
    assert running_url(tmp_path) is None
    (tmp_path / "up.lock").write_text("4711")
    assert running_url(tmp_path) is None
    with only_one(tmp_path):  # the next one, which is not ready yet
        assert running_url(tmp_path) is None
        with published_url(tmp_path, NOBODY):
            assert running_url(tmp_path) == NOBODY


@pytest.mark.unit
def test_who_looks_for_a_running_system_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the lock for an instant, and whoever wants to run waits for that."""
    with (tmp_path / "up.lock").open("a") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr("ops.locks.sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        with only_one(tmp_path), published_url(tmp_path, NOBODY):
            assert running_url(tmp_path) == NOBODY


def test_the_running_system_of_the_directory_is_found_without_copying_anything(
    tmp_path: Path, api: Api
) -> None:
    """For as long as it runs; and no token is made in production."""
    (tmp_path / "jwt.key").write_text(api.settings.jwt_key.get_secret_value())
    with only_one(tmp_path), published_url(tmp_path, api.url):
        made = run("reserve", "--room", "7", *STAY, "--json", data=tmp_path)
        assert json.loads(made.stdout)["memberId"] == ME
        in_production = run(
            "reservations", data=tmp_path, environment={"ENVIRONMENT": "production"}
        )
        assert in_production.returncode == 2
        assert "production" in in_production.stderr
    assert running_url(tmp_path) is None
    assert run("reservations", data=tmp_path).returncode == 2


def test_a_load_shows_the_first_refused_lines_and_keeps_all_in_a_report(
    tmp_path: Path, terminal: Terminal
) -> None:
    season, report = tmp_path / "season.csv", tmp_path / "refused.ndjson"
    lines = [f"{room},2027-01-01,{'many' if room <= 30 else 2}" for room in range(1, 41)]
    season.write_text("\n".join(["roomId,night,capacity", *lines]))

    loaded = terminal("inventory", "load", str(season), "--report", str(report))
    assert loaded.returncode == 1
    assert loaded.stdout.count("INVALID_LINE") == 20
    assert "10 more lines" in loaded.stderr
    assert "40 lines, 10 applied, 30 refused" in loaded.stderr
    refused = [json.loads(line) for line in report.read_text().splitlines()]
    assert [one["line"] for one in refused] == list(range(2, 32))
    assert {one["field"] for one in refused} == {"capacity"}

    told = terminal.json("inventory", "load", str(season), code=1)
    assert (told["lines"], told["applied"]) == (40, 10)
    assert told["refused"] == refused


def test_a_load_may_come_through_a_pipe_in_either_format(
    terminal: Terminal,
) -> None:
    for given in (
        b'{"roomId": 1, "night": "2027-01-01", "capacity": 2}\n',
        b"roomId,night,capacity\n2,2027-01-01,2\n",
    ):
        with terminal.begun("inventory", "load", "-") as load:
            _, said = load.communicate(given)
        assert load.returncode == 0
        assert b"1 applied" in said
    assert [room["id"] for room in terminal.json("inventory", "rooms")["rooms"]] == [1, 2]


def test_a_load_that_is_interrupted_says_what_is_done_and_has_kept_what_was_refused(
    tmp_path: Path, api: Api, terminal: Terminal
) -> None:
    lines = [b'{"roomId": %d, "night": "2027-01-01", "capacity": 2}\n' % n for n in range(1, 2_002)]
    lines[4:6] = [b"{}\n", b"[]\n"]
    token = terminal.environment["INNBOX_TOKEN"]
    report = tmp_path / "refused.ndjson"
    with (
        terminal.begun("inventory", "load", "-", "--report", str(report)) as load,
        Innbox(api.url, token) as innbox,
    ):
        assert load.stdin is not None
        assert load.stderr is not None
        load.stdin.write(b"".join(lines))
        load.stdin.flush()
        eventually(lambda: _is_there(innbox, 2_000))
        eventually(report.read_bytes)
        load.send_signal(signal.SIGINT)
        said = load.stderr.read().decode()
    assert load.returncode == 130
    assert "It is safe to repeat the whole load." in said
    assert [json.loads(line)["line"] for line in report.read_text().splitlines()] == [5, 6]


def test_a_report_that_cannot_be_written_is_noticed_before_the_load(
    tmp_path: Path, terminal: Terminal
) -> None:
    season = tmp_path / "season.csv"
    season.write_text("roomId,night,capacity\n7,2027-01-01,2\n")
    for report in (tmp_path / "nowhere" / "refused.ndjson", season):
        refused = terminal("inventory", "load", str(season), "--report", str(report))
        assert refused.returncode == 2
        assert str(report) in refused.stderr
    assert terminal.json("inventory", "rooms")["rooms"] == []
    assert season.read_text().startswith("roomId")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("begins", "format_"),
    [
        ("{", "ndjson"),
        ("\ufeff{", "ndjson"),
        ("\ufeff\n {", "ndjson"),
        ("roomId,", "csv"),
        ("\ufeffroomId,", "csv"),
        ("", "csv"),
    ],
)
def test_a_format_is_told_by_the_first_character(begins: str, format_: str) -> None:
    assert format_of(BufferedReader(BytesIO(begins.encode()))) == format_


@pytest.mark.unit
@pytest.mark.parametrize(
    ("word", "days"),
    [("today", 0), ("tomorrow", 1), ("+14", 14), ("TODAY", 0)],
)
def test_a_day_may_be_told_from_today(word: str, days: int) -> None:
    before = date.today()  # noqa: DTZ011 - one's own calendar is what is meant
    found = Day().convert(word, None, None)
    after = date.today()  # noqa: DTZ011
    assert before + timedelta(days=days) <= found <= after + timedelta(days=days)


@pytest.mark.unit
def test_a_weekday_is_the_next_one_and_never_today() -> None:
    before = date.today()  # noqa: DTZ011
    found = {Day().convert(name, None, None) for name in ("mon", "tue", "wed", "thu", "fri")}
    found |= {Day().convert(name, None, None) for name in ("Saturday", "SU")}
    assert len(found) == 7
    after = date.today()  # noqa: DTZ011
    assert all(before < day <= after + timedelta(days=7) for day in found)


@pytest.mark.unit
@pytest.mark.parametrize("weekday", range(7))
def test_a_weekday_of_leaving_is_the_next_one_after_the_arrival(
    weekday: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--check-in fri --check-out sun` is a weekend, also when it is asked for on a Saturday."""
    on = date(2027, 1, 4) + timedelta(days=weekday)
    monkeypatch.setattr("ops.cli.dates.today", lambda: on)
    words = ["--check-out", "sun", "--room", "7", "--check-in", "fri"]
    stay = reserve.make_context("reserve", words).params
    assert stay["check_in"].weekday() == 4
    assert 0 < (stay["check_in"] - on).days <= 7
    assert stay["check_out"] == stay["check_in"] + timedelta(days=2)

    within = list_.make_context("list", ["--to", "fri", "--from", "fri"]).params
    assert within["to_on"] == within["from_on"] + timedelta(days=7)
    alone = list_.make_context("list", ["--to", "fri"]).params
    assert alone["to_on"] == within["from_on"]


@pytest.mark.unit
@pytest.mark.parametrize("word", ["", "10.01.2027", "2027-02-30", "s", "someday", "+", "+99999"])
def test_what_is_no_day_is_refused(word: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a day"):
        Day().convert(word, None, None)


@pytest.mark.unit
def test_days_of_the_week_are_told_in_short_or_in_full() -> None:
    assert weekdays("sat, Sunday,MON") == ("SAT", "SUN", "MON")
    with pytest.raises(click.BadParameter, match="SAT,SUN"):
        weekdays("sat,someday")


@pytest.mark.unit
def test_the_nights_of_a_problem_are_told_one_by_one() -> None:
    nights = [{"night": "2027-01-01", "capacity": 0, "taken": 2}]
    document = {"title": "Capacity below taken", "detail": "more are held", "nights": nights}
    told_lines = explained(Problem(409, document)).splitlines()
    assert told_lines == [
        "Capacity below taken (409): more are held",
        "  night 2027-01-01, capacity 0, taken 2",
    ]


@pytest.mark.unit
def test_a_fault_that_stayed_is_told_with_its_trace_and_the_key() -> None:
    fault = Problem(500, {"title": "Internal error", "traceId": "5ca1ab1e"}, key="once")
    said = explained(Unavailable("POST /v1/reservations", fault, "once"))
    assert "Internal error" in said
    assert "Trace 5ca1ab1e" in said
    assert "--key once" in said


@contextmanager
def _a_page(status: int) -> Iterator[str]:
    """Something at a URL that answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<h1>Log in</h1>")

        do_PUT = do_GET  # noqa: N815 - the name that it is looked for under

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _is_there(innbox: Innbox, room_id: int) -> bool:
    try:
        return innbox.room(room_id).id == room_id
    except Problem:
        return False
