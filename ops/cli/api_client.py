"""How a command calls the API: its URL, its token, and the text of its errors.

`innbox up` keeps its URL and the key that signs tokens in the data directory, so nothing must be copied.
That is for development alone: no token is made for a URL that the user names, nor in production.
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

# The member of the made tokens, also of the one that `innbox up` prints.
OWN_MEMBER = 7
PATIENCE_S = 5.0

_TOKEN_S = 300

# Its first argument is the client; the others are its options.
Command = Callable[..., int | None]


# Drawn here and not by the client, so that an interrupted command can print it.
key_option = click.option(
    "--key",
    default=lambda: str(uuid4()),
    show_default="a new one",
    help="The idempotency key: a request repeated with it takes effect once.",
)


def with_client(command: Command) -> Command:
    """Give a command the options of the API's URL and token, and a client as its first argument."""
    return with_patient_client(PATIENCE_S)(command)


def with_patient_client(patience_s: float) -> Callable[[Command], Command]:
    """Do the same for a command that repeats requests for longer than a person at a terminal waits."""

    def decorate(command: Command) -> Command:
        @click.option(
            "--url", envvar="INNBOX_URL", help="The API's URL.  [default: that of `innbox up`]"
        )
        @click.option(
            "--token",
            envvar="INNBOX_TOKEN",
            help="Your bearer token; better set in the environment.  "
            "[default: made for `innbox up`]",
        )
        @click.option(
            "--patience",
            type=click.FloatRange(0, 3_600),
            default=patience_s,
            show_default=True,
            help="Seconds, from the first failure, to repeat a request without an answer.",
        )
        @wraps(command)
        def run(
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

        return run

    return decorate


@contextmanager
def connected(
    data: Path, url: str | None, token: str | None, patience_s: float = PATIENCE_S
) -> Iterator[Innbox]:
    """Open a client for the length of a block; raises `CommandError` without a URL or a token."""
    where = url or running_url(data)
    if where is None:
        raise CommandError(
            f"no API runs on {data}: start one with `innbox up`, or name one with --url or INNBOX_URL"
        )
    if not _is_url(where):
        raise CommandError(
            f"--url: {where} is not a URL; write, for example, https://innbox.example"
        )
    if url and not token:
        raise CommandError("the token is missing: set INNBOX_TOKEN, or add --token")
    with Innbox(where, token or _own_token(data), patience_s=patience_s) as innbox:
        yield innbox


def explained(error: Problem | Unavailable) -> str:
    """Return what failed, where in the request, and what to do next."""
    if isinstance(error, Unavailable):
        return "\n  ".join([f"{error.request}: no answer: {error.why}", *_advice(error)])
    lines = [f"{error.title} ({error.status}): {error.detail}".rstrip(": ")]
    lines += [f"  {fault.where}: {fault.detail}" for fault in error.errors if fault.where]
    lines += [f"  {_night_line(night)}" for night in error.document.get("nights") or []]
    if error.status == httpx.codes.UNAUTHORIZED:
        lines.append("  For development, `innbox token` makes tokens.")
    if error.trace_id:
        lines.append(f"  Trace {error.trace_id}")
    return "\n".join(lines)


def is_refusal(problem: Problem) -> bool:
    """Return whether the API refused the request itself.

    A missing or invalid token (401) is no refusal of the request, and neither is another program's page.
    """
    return (
        httpx.codes.is_client_error(problem.status)
        and problem.status != httpx.codes.UNAUTHORIZED
        and problem.type != "about:blank"
    )


@contextmanager
def _interrupted(key: str | None) -> Iterator[None]:
    """Print the key if the command is interrupted before the answer."""
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
        yield "Is the API running? Start one with `innbox up`, or name another with --url."
    if error.key:
        yield _repeat(error.key)
    if isinstance(error.last, Problem) and error.last.trace_id:
        yield f"Trace {error.last.trace_id}"


def _repeat(key: str) -> str:
    return f"The request may have taken effect. Repeat it safely with --key {quote(key)}"


def _night_line(night: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in night.items())


def _own_token(data: Path) -> Callable[[], str]:
    """Return a function that makes tokens for the embedded system, short-lived since used at once."""
    from api.identity.scopes import INVENTORY, OPERATE, READ, STAFF, WRITE
    from api.identity.signing import sign

    settings = settings_for(data, ())
    scopes = (READ, WRITE, STAFF, INVENTORY, OPERATE)
    return lambda: sign(settings, OWN_MEMBER, scopes, lifetime_s=_TOKEN_S)
