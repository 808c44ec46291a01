"""Authorisation: the guard of all routes, and the scope that a route needs.

The guard runs before the body is read, so a stranger is told nothing about it. It finds out the member,
limits their rate, and then checks the request and the scope.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypedDict

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from api.identity.rate_limit import RateLimiter
from api.identity.tokens import Member, Tokens, Unauthenticated
from api.problems import ProblemError, problem_responses

_SCOPE = "needs_scope"

AnyConnection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[AnyConnection, BaseRouteHandler], Awaitable[None]]
Check = Callable[[AnyConnection, BaseRouteHandler], None]
MemberRequest = Request[Member, Any, Any]


class Needs(TypedDict):
    """What a route says of itself, to Litestar and to the OpenAPI document."""

    opt: dict[str, str]
    security: list[dict[str, list[str]]]
    responses: dict[int, ResponseSpec]


class ScopeMissing(ProblemError):
    """The member is known but may not do this."""

    code = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
        detail = f"this needs a token with the scope {scope!r}"
        super().__init__(self.code, detail, headers={"WWW-Authenticate": challenge})


def members_only(tokens: Tokens, limiter: RateLimiter, *checks: Check) -> Guard:
    """Return the guard that lets members pass, none of them too fast, and then runs the checks in order.

    One guard for all of it: Litestar copies the route's handler for each guard of a request.
    """

    # Litestar would run a synchronous guard in a thread.
    async def guard(connection: AnyConnection, _: BaseRouteHandler) -> None:
        member = await tokens.member(_bearer(connection.scope["headers"]))
        limiter.acquire(member.id)
        connection.scope["user"] = member
        for check in checks:
            check(connection, connection.scope["route_handler"])

    return guard


def needs(scope: str, *problems: str, also: dict[int, ResponseSpec] | None = None) -> Needs:
    """Have a route let only members with this scope pass, which `scope_granted` checks.

    `problems` and `also` are what it answers beside its result.
    """
    return {
        "opt": {_SCOPE: scope},
        "security": [{"bearer": [scope]}],
        "responses": {**(also or {}), **problem_responses(ScopeMissing.code, *problems)},
    }


def scope_granted(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Raise `ScopeMissing` if the route needs a scope that the member's token lacks."""
    scope = handler.opt.get(_SCOPE)
    if scope is not None and scope not in connection.user.scopes:
        raise ScopeMissing(scope)


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = [value for name, value in headers if name == b"authorization"]
    # Of two, a proxy before this process may have checked the other one.
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthenticated("a bearer token is needed", challenge="Bearer")

    return token.strip()
