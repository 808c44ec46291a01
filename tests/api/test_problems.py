"""Problems: each that can be answered is registered, documented at its address, and agrees with all."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from api.problems.faults import of_body
from api.problems.types import TYPES
from api.rooms.views import Nights
from domain.reservations.model import NotReservableCode
from tests.support.api_client import an_api, assert_problem

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[A-Z]+(_[A-Z]+)+|UNAUTHENTICATED|UNAVAILABLE")
# Codes of what happens between ourselves: nobody is answered with them.
INTERNAL = {"POISON_MESSAGE", "CONTRADICTING_ANSWER", "RESERVATION_MOVED", "ALLOCATED_MEANWHILE"}
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def codes() -> set[str]:
    """Every code of the code base: `code = "…"` of a class, and what a problem is made with by name."""
    found = {refusal.value for refusal in NotReservableCode}
    for folder in ("api", "domain"):
        for file in (ROOT / folder).rglob("*.py"):
            found |= set(_codes(ast.parse(file.read_text())))
    return found - INTERNAL - {""}


def _codes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name("code")], value=ast.Constant(str() as code)):
                yield code
            case ast.AnnAssign(target=ast.Name("code"), value=ast.Constant(str() as code)):
                yield code
            case ast.Call(
                func=ast.Name("problem" | "_problem" | "ProblemError"),
                args=[ast.Constant(str() as code), *_],
            ):
                yield code


@pytest.mark.unit
def test_each_code_that_can_be_answered_has_a_type() -> None:
    assert {"NOT_FOUND", "TOO_MANY_PENDING", "CHECK_IN_PAST", "INTERNAL_ERROR"} <= codes()
    assert codes() - set(TYPES) == set()


@pytest.mark.unit
def test_each_type_is_one_that_can_be_answered() -> None:
    assert set(TYPES) - codes() == set()


@pytest.mark.unit
@pytest.mark.parametrize("code", TYPES)
def test_a_type_says_when_it_happens_and_what_to_do(code: str) -> None:
    kind = TYPES[code]
    assert CODE.fullmatch(code)
    assert kind.when.endswith(".")
    assert kind.advice.endswith(".")
    assert 400 <= kind.status < 600
    assert kind.answer["type"] == f"/problems/{code.lower().replace('_', '-')}"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"[]", "#"),
        (b"{}", "#/from"),
        (b'{"from": "2027-01-01", "to": 1}', "#/to"),
        (b'{"from": "2027-01-01", "to": "2027-02-01", "weekdays": ["MON", "DAY"]}', "#/weekdays/1"),
        (b'{"from": "2027-01-01", "to": "2027-02-01", "rooms": 1}', "#/rooms"),
        ('{"a/b~c ü`": 1}'.encode(), "#/a~1b~0c%20%C3%BC%60"),
    ],
)
def test_what_is_wrong_with_a_body_is_pointed_at(body: bytes, pointer: str) -> None:
    """By the fragment of RFC 6901, also for a name of the sender's own choice."""
    with pytest.raises(msgspec.ValidationError) as wrong:
        msgspec.json.decode(body, type=Nights)
    assert of_body(wrong.value).pointer == pointer


def test_each_type_is_documented_at_its_own_address(database_url: str) -> None:
    """Without a token: for programs as JSON, for people as a page."""
    with an_api(database_url) as api, httpx.Client(base_url=api.url) as stranger:
        listed = stranger.get("/problems").json()["items"]
        for kind in TYPES.values():
            found = stranger.get(kind.uri)
            page = stranger.get(kind.uri, headers={"Accept": BROWSER})
            assert found.json() in listed
            assert (found.json()["title"], found.json()["status"]) == (kind.title, kind.status)
            assert page.headers["Content-Type"] == "text/html; charset=utf-8"
            assert page.headers["Vary"] == "Accept"
            assert f">{kind.title}</a>" in page.text
        everything = stranger.get("/problems", headers={"Accept": BROWSER}).text
        unknown = stranger.get("/problems/of-another-service")

    assert len(listed) == len(TYPES)
    assert all(kind.title in everything for kind in TYPES.values())
    assert_problem(unknown, 404, "not-found")


def test_what_is_answered_agrees_with_its_type(database_url: str) -> None:
    with an_api(database_url) as api:
        me = api.member()
        for response in (
            me.get("/v1/reservations/999999"),
            me.get("/v1/reservations", params={"limit": 0}),
            me.post("/v1/reservations", content=b"{"),
            me.post("/v1/reservations", content=b"{}", headers={"Content-Type": "text/plain"}),
            httpx.get(f"{api.url}/v1/reservations"),
        ):
            problem = response.json()
            described = me.get(problem["type"]).json()
            assert problem["title"] == described["title"]
            assert problem["status"] == described["status"] == response.status_code


def test_whatever_is_accepted_is_answered(database_url: str) -> None:
    with an_api(database_url) as api, httpx.Client(base_url=api.url) as stranger:
        for accept in (b"", b",", b"text", b"text/html;q=x", b"*/*", b"image/png", b"\xff"):
            response = stranger.get("/problems/not-found", headers=[(b"Accept", accept)])
            assert response.status_code == 200, accept
