"""The tour of the API runs as it stands on its page, and answers what the page says it answers.

Its dates are moved into the future by whole weeks. `curl` is read here and sent with httpx, so that a
machine without it can run the test.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.local import Servers
from ops.stack import running_url
from tests.support.api_client import today

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
PAGES_URL = "http://127.0.0.1:8000"

_BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_DAY = re.compile(r"\b20\d\d-\d\d-\d\d\b|\bdate\(20\d\d, \d+, \d+\)")
_HERE_DOCUMENT = re.compile(r"cat > (\S+) <<'END'\n(.*?\n)END\n", re.DOTALL)
_EXPORT = re.compile(r"export (\w+)=(?:\$\((.*)\)|(.*))")


@dataclass(frozen=True)
class Step:
    """A block of commands, or a program, and what the page says that the last of it prints."""

    language: str
    text: str
    shown_as: str | None = None
    shown: str = ""


@dataclass
class Shell:
    """As much of a shell as the tour needs."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, step: Step) -> str:
        """Run a block and return what its last command prints."""
        if step.language == "python":
            return self._program([sys.executable, "-c", step.text])
        printed = ""
        for name, content in _HERE_DOCUMENT.findall(step.text):
            (self.home / name).write_text(content)
        commands = _HERE_DOCUMENT.sub("", step.text).replace("\\\n", " ")
        for command in commands.splitlines():
            if exported := _EXPORT.fullmatch(command):
                name, substituted, value = exported.groups()
                value = self._one(substituted).strip() if substituted else self._expanded(value)
                self.variables[name] = value.replace(PAGES_URL, self._url())
            else:
                printed = self._one(command)
        return printed

    def _one(self, command: str) -> str:
        name, *words = shlex.split(self._expanded(command))
        if name == "curl":
            return curl(words, self.home)
        assert name == "innbox", command
        return self._program([sys.executable, "-m", "ops.cli", *words])

    def _program(self, command: list[str]) -> str:
        ended = subprocess.run(
            command,
            cwd=self.home,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **self.variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.returncode in {0, 1}, ended.stderr
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended.stdout + ended.stderr

    def _expanded(self, text: str) -> str:
        return re.sub(r"\$(\w+)", lambda found: self.variables[found[1]], text)

    def _url(self) -> str:
        url = running_url(self.home / ".innbox")
        assert url
        return url


def curl(words: list[str], home: Path) -> str:
    """Send what curl would, and return what it would print; fails at an option that is not known."""
    method, url, headers, body, with_head = "", "", {}, None, False
    rest = iter(words)
    for word in rest:
        match word:
            case "-X":
                method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            case "-d":
                body = next(rest).encode()
            case "--data-binary":
                body = (home / next(rest).removeprefix("@")).read_bytes()
            case "-i":
                with_head = True
            case "-N":
                pass
            case _:
                assert not word.startswith("-"), f"curl {word}"
                url = word
    method = method or ("GET" if body is None else "POST")
    answer = httpx.request(method, url, headers=headers, content=body, timeout=30)
    if not with_head:
        return answer.text
    head = [f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"]
    head += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\n".join([*head, "", answer.text])


def steps(page: str = PAGE) -> list[Step]:
    """Read a page's blocks, each with the one that shows its output."""
    found: list[Step] = []
    for language, block in _BLOCK.findall(_in_the_future(page)):
        if language in {"sh", "python"}:
            found.append(Step(language, block))
        elif language:
            last = found.pop()
            assert last.shown_as is None, f"two outputs of {last.text}"
            found.append(Step(last.language, last.text, language, block))
    return found


def test_the_tour_runs_as_it_stands(tmp_path: Path, servers: Servers, database_url: str) -> None:
    shell = Shell(tmp_path)
    with up(tmp_path, servers, database_url):
        follow(shell, PAGE)


def test_the_tutorial_runs_as_it_stands(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    """Its commands ask the servers directly, too, so they are told of those that the system uses."""
    shell = Shell(tmp_path, where(servers, database_url))
    with up(tmp_path, servers, database_url):
        follow(shell, TUTORIAL)


def follow(shell: Shell, page: str) -> None:
    """Run what a page shows, and compare what it says is printed."""
    for step in steps(page):
        printed = shell.run(step)
        if step.shown_as:
            _COMPARISONS[step.shown_as](step.shown, printed)


@pytest.mark.unit
def test_the_tour_shows_every_command_and_most_of_what_it_shows_is_compared() -> None:
    for command in ("reserve", "cancel", "reservations", "availability", "inventory"):
        assert f"innbox {command}" in PAGE
    assert sum(step.shown_as is not None for step in steps()) >= len(steps()) - 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("compare", "shown", "printed"),
    [
        ("json", '{"a": 1}', '{"a": 2}'),
        ("json", '{"a": [{"b": 1}]}', '{"a": [{"b": 1}, {"b": 2}]}'),
        ("json", '{"a": 1}', '{"b": 1}'),
        ("text", "one\ntwo", "two\none"),
        ("text", "a … c", "a b d"),
        ("http", "HTTP/1.1 200 OK\n", "HTTP/1.1 202 Accepted\n\n"),
        ("http", "HTTP/1.1 200 OK\nETag: 1\n", "HTTP/1.1 200 OK\netag: 2\n\n"),
        ("http", 'HTTP/1.1 200 OK\n\n{"a": 1}', "HTTP/1.1 200 OK\n\n{}"),
    ],
)
def test_what_is_shown_is_told_from_something_else(compare: str, shown: str, printed: str) -> None:
    """The comparison itself, which would else prove nothing."""
    with pytest.raises(AssertionError):
        _COMPARISONS[compare](shown, printed)


def where(servers: Servers, database_url: str) -> dict[str, str]:
    """Name the servers; a prefix for each database, as each test has one."""
    return {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap_servers,
        "KAFKA_PREFIX": f"tour-{database_url.rpartition('/')[2]}-",
    }


@contextmanager
def up(home: Path, servers: Servers, database_url: str) -> Iterator[None]:
    """`innbox up` in a directory, from when it is ready until Ctrl-C."""
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        **where(servers, database_url),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "ops.cli", "up", "--port", "0"],
        cwd=home,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            while "Ctrl-C" not in (line := running.stdout.readline()):
                assert line, "it ended early"
            yield
        finally:
            running.send_signal(signal.SIGINT)


def _in_the_future(page: str) -> str:
    """Move all dates by the same number of weeks, so that the first lies some weeks ahead."""
    days = [_day(found) for found in _DAY.findall(page)]
    weeks = ((today() + timedelta(days=60)) - min(days)).days // 7
    by = timedelta(weeks=weeks)

    def moved(found: re.Match[str]) -> str:
        day = _day(found[0]) + by
        return str(day) if found[0][0] == "2" else f"date({day.year}, {day.month}, {day.day})"

    return _DAY.sub(moved, page)


def _day(written: str) -> date:
    year, month, day = map(int, re.findall(r"\d+", written))
    return date(year, month, day)


def _same_lines(shown: str, printed: str) -> None:
    """Each line that is shown is printed, in this order; `…` is anything, and blanks do not count."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in filter(None, map(str.split, shown.splitlines())):
        pattern = ".*".join(map(re.escape, " ".join(line).split("…")))
        assert any(re.fullmatch(pattern, there) for there in lines), f"{line}\nis not in\n{printed}"


def _same_json(shown: str, printed: str) -> None:
    assert _holds(json.loads(shown), json.loads(printed)), f"{shown}\nis not in\n{printed}"


def _same_http(shown: str, printed: str) -> None:
    """The status, each header that is shown, and the body as JSON."""
    head, _, body = shown.partition("\n\n")
    printed_head, _, printed_body = printed.partition("\n\n")
    status, *headers = head.strip().splitlines()
    printed_status, *there = printed_head.lower().splitlines()
    version, code, _ = status.split(maxsplit=2)
    # The phrase is this Python's: 3.13 has another one for 422 than the page.
    assert printed_status == f"{version} {code} {HTTPStatus(int(code)).phrase}".lower()
    for header in headers:
        assert header.lower() in there, f"{header}\nis not in\n{printed}"
    if body:
        _same_json(body, printed_body)


def _holds(shown: Any, printed: Any) -> bool:
    """Whether all that is shown is there; objects may have more members, lists no more items."""
    match shown:
        case "…":
            return True
        case dict():
            return isinstance(printed, dict) and all(
                name in printed and _holds(value, printed[name]) for name, value in shown.items()
            )
        case list():
            return (
                isinstance(printed, list)
                and len(shown) == len(printed)
                and all(map(_holds, shown, printed))
            )
    return bool(shown == printed)


_COMPARISONS: dict[str, Callable[[str, str], None]] = {
    "text": _same_lines,
    "json": _same_json,
    "http": _same_http,
}
