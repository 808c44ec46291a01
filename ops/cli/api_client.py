"""How a command asks the API: where it is, who one is there, and what is said when the answer is no.

The embedded system of `innbox up` leaves its URL in the data directory, and the key that it signs tokens
with is there as well; so nothing has to be copied. That is for development alone: no token is ever made
for a URL that somebody names, nor in production.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from shlex import quote
from typing import Any
from uuid import uuid4

import click
import httpx

from innbox_client import Innbox, Problem, Unavailable
from innbox_process.commands import CommandError
from ops.environment import settings_for
from ops.stack import running_url
from relay.cli.output import print_status

# Who one is on one's own machine; the token that `innbox up` prints is this member's, too.
OWN_MEMBER = 7
PATIENCE_S = 5.0

_TOKEN_S = 300

# Its first argument is the client; the others are its options.
Command = Callable[..., int | None]


# Drawn here and not by the client, so that it can be told also to whoever does not wait for the answer.
under_a_key = click.option(
    "--key",
    default=lambda: str(uuid4()),
    show_default="a new one",
    help="The idempotency key: repeated under it, the request is done once.",
)


def asks(command: Command) -> Command:
    """Give a command the options that say where the API is, and the open client as its first argument."""
    return asks_for(PATIENCE_S)(command)


def asks_for(patience_s: float) -> Callable[[Command], Command]:
    """The same, for as long as is worth while: `asks` suits a person who waits at a terminal."""

    def decorate(command: Command) -> Command:
        @click.option(
            "--url", envvar="INNBOX_URL", help="Of the API.  [default: that of `innbox up`]"
        )
        @click.option(
            "--token",
            envvar="INNBOX_TOKEN",
            help="Who you are; better kept in the environment.  [default: made for `innbox up`]",
        )
        @click.option(
            "--patience",
            type=click.FloatRange(0, 3_600),
            default=patience_s,
            show_default=True,
            help="Seconds, from the first failure, to repeat a request that nobody answers.",
        )
        @wraps(command)
        def asking(
            *,
            url: str | None,
            token: str | None,
            patience: float,
            **options: Any,  # noqa: ANN401 - the command's own
        ) -> int | None:
            data = click.get_current_context().find_object(Path)
            assert data is not None
            with connected(data, url, token, patience) as innbox, _interrupted(options.get("key")):
                return command(innbox, **options)

        return asking

    return decorate


@contextmanager
def connected(
    data: Path, url: str | None, token: str | None, patience_s: float = PATIENCE_S
) -> Iterator[Innbox]:
    """A client for the length of a block; raises `CommandError` if it is not known where or who."""
    where = url or running_url(data)
    if where is None:
        raise CommandError(
            f"no API runs on {data}: start one with `innbox up`, or name one with --url or INNBOX_URL"
        )
    if not _is_url(where):
        raise CommandError(f"--url: {where} is no URL; write, say, https://innbox.example")
    if url and not token:
        raise CommandError("who you are is not known: set INNBOX_TOKEN, or give a --token")
    with Innbox(where, token or _own_token(data), patience_s=patience_s) as innbox:
        yield innbox


def explained(error: Problem | Unavailable) -> str:
    """Say what went wrong, where in the request, and what to do or to quote."""
    if isinstance(error, Unavailable):
        return "\n  ".join([f"{error.request}: no answer: {error.why}", *_advice(error)])
    lines = [f"{error.title} ({error.status}): {error.detail}".rstrip(": ")]
    lines += [f"  {fault.where}: {fault.detail}" for fault in error.errors if fault.where]
    lines += [f"  {_told(night)}" for night in error.document.get("nights") or []]
    if error.status == httpx.codes.UNAUTHORIZED:
        lines.append("  For development, `innbox token --help` makes tokens.")
    if error.trace_id:
        lines.append(f"  Trace {error.trace_id}")
    return "\n".join(lines)


def is_refusal(problem: Problem) -> bool:
    """Tell what was asked for and refused from what could not be asked.

    Not to be known (401) is no judgement of a request, and neither is a page of something else.
    """
    return (
        httpx.codes.is_client_error(problem.status)
        and problem.status != httpx.codes.UNAUTHORIZED
        and problem.type != "about:blank"
    )


@contextmanager
def _interrupted(key: str | None) -> Iterator[None]:
    """Tell the key to whoever does not wait for the answer."""
    try:
        yield
    except KeyboardInterrupt:
        if key:
            print_status(_repeat(key))
        raise


def _is_url(where: str) -> bool:
    try:
        url = httpx.URL(where)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)


def _advice(error: Unavailable) -> Iterator[str]:
    if isinstance(error.last, httpx.ConnectError):
        yield "Is it running? Start one here with `innbox up`, or name another with --url."
    if error.key:
        yield _repeat(error.key)
    if isinstance(error.last, Problem) and error.last.trace_id:
        yield f"Trace {error.last.trace_id}"


def _repeat(key: str) -> str:
    return f"Perhaps it was done. Repeated with --key {quote(key)} it is done once, and no more."


def _told(night: dict[str, object]) -> str:
    """One night of a problem, its members in words."""
    return ", ".join(f"{name} {value}" for name, value in night.items())


def _own_token(data: Path) -> Callable[[], str]:
    """Return what makes tokens for the embedded system, each short-lived, since each is used at once."""
    from api.identity.auth import INVENTORY, OPERATE, READ, STAFF, WRITE
    from api.identity.signing import sign

    settings = settings_for(data, ())
    scopes = (READ, WRITE, STAFF, INVENTORY, OPERATE)
    return lambda: sign(settings, OWN_MEMBER, scopes, lifetime_s=_TOKEN_S)
