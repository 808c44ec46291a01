"""/problems: the pages that a problem's `type` links to, for programs and people, without a token."""

from html import escape
from typing import Annotated, Any

import msgspec
from litestar import MediaType, Request, Response, Router, get
from litestar.params import PathParameter

from api.problems import NotFound, problem_responses
from api.problems.types import TYPES

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
{sections}
</body>
</html>
"""
_SECTION = """<h1><a href="{type}">{title}</a></h1>
<p><code>{status}</code> {when}</p>
<p>{advice}</p>
<pre>{example}</pre>"""


class ProblemPage(msgspec.Struct, frozen=True):
    """A type of problem: when it happens, what to do about it, and an example."""

    type: str
    title: str
    status: int
    when: str
    advice: str
    example: dict[str, Any]


class ProblemPages(msgspec.Struct, frozen=True):
    items: list[ProblemPage]


_PAGES = {kind.name: ProblemPage(**kind.page) for kind in TYPES.values()}


def problem_routes() -> Router:
    return Router("/problems", route_handlers=[list_all, look], tags=["problems"])


@get(
    "/",
    operation_id="listProblems",
    summary="List the types of problems",
    responses=problem_responses("BAD_REQUEST", anywhere=()),
    sync_to_thread=False,
)
def list_all(request: Request[Any, Any, Any]) -> Response[ProblemPages]:
    """As a page for people, where one is asked for."""
    return _answer(request, ProblemPages(list(_PAGES.values())))


@get(
    "/{name:str}",
    operation_id="getProblem",
    summary="Look at one type of problem",
    responses=problem_responses("BAD_REQUEST", "NOT_FOUND", anywhere=()),
    sync_to_thread=False,
)
def look(
    name: Annotated[str, PathParameter()], request: Request[Any, Any, Any]
) -> Response[ProblemPage]:
    """As a page for people, where one is asked for."""
    if (page := _PAGES.get(name)) is None:
        raise NotFound
    return _answer(request, page)


def _answer(request: Request[Any, Any, Any], content: ProblemPage | ProblemPages) -> Response[Any]:
    vary = {"Vary": "Accept"}
    if request.accept.best_match([MediaType.JSON, MediaType.HTML]) == MediaType.HTML:
        return Response(_html(content), media_type=MediaType.HTML, headers=vary)
    return Response(content, media_type=MediaType.JSON, headers=vary)


def _html(content: ProblemPage | ProblemPages) -> str:
    if isinstance(content, ProblemPage):
        title, pages = content.title, [content]
    else:
        title, pages = "Problems", content.items
    return _PAGE.format(title=escape(title), sections="\n".join(map(_section, pages)))


def _section(page: ProblemPage) -> str:
    example = msgspec.json.format(msgspec.json.encode(page.example)).decode()
    words = msgspec.structs.asdict(page) | {"example": example}
    return _SECTION.format(**{name: escape(str(value)) for name, value in words.items()})
