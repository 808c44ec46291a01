"""How a command calls the API: its URL, its token, and the text of its errors.

`innbox up` keeps its URL and the key that signs tokens in the data directory, so nothing must be copied.
That is for development alone: no token is made for a URL that the user names, nor in production.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar, TypeVarTuple
from uuid import uuid4

import click
import httpx
import msgspec

from innbox_client import Innbox, Problem, Unavailable
from innbox_process.commands import CommandError
from ops.environment import settings_for
from ops.stack import running_url
from relay.cli.output import print_json, print_status

# The member of the made tokens, also of the one that `innbox up` prints.
OWN_MEMBER = 7
PATIENCE_S = 5.0

_TOKEN_S = 300

# Its first argument is the client; the others are its options.
Command = Callable[..., int | None]
Keywords = TypeVar("Keywords")
Shown = TypeVarTuple("Shown")


# Drawn here and not by the client, so that an interrupted command can print it.
key_option = click.option(
    "--key",
    default=lambda: str(uuid4()),
    show_default="a new one",
    help="The idempotency key: a request repeated with it takes effect once.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most."
)


def with_client(
    patience_s: float = PATIENCE_S, *, json: str = "Print one JSON object."
) -> Callable[[Command], Command]:
    """Give a command --json and the options of the API's URL and token; a client is its first argument.

    `patience_s` is the default of --patience: what a person at a terminal waits, unless it is longer.
    """

    def decorate(command: Command) -> Command:
        @click.option("--json", "as_json", is_flag=True, help=json)
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
            try:
                with _client(data, url, token, patience) as innbox:
                    return command(innbox, **options)
            except KeyboardInterrupt:
                if key := options.get("key"):
                    print_status(_repeat(key))
                raise

        return run

    return decorate


def given(kind: type[Keywords], **options: object) -> Keywords:
    """Return the options that are given, as keywords of the client."""
    return msgspec.convert({name: one for name, one in options.items() if one is not None}, kind)


def print_found(
    as_json: bool, found: object, show: Callable[[*Shown], None], *shown: *Shown
) -> None:
    """Print what the API answered: as JSON, or by a function that shows it to people."""
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        show(*shown)


def explained(error: Problem | Unavailable) -> str:
    """Return what failed, where in the request, and what to do next."""
    if isinstance(error, Unavailable):
        return "\n  ".join([f"{error.request}: no answer: {error.why}", *_advice(error)])
    lines = [f"{error.title} ({error.status}): {error.detail}".rstrip(": ")]
    lines += [f"  {fault.where}: {fault.detail}" for fault in error.errors if fault.where]
    for night in error.document.get("nights") or []:
        lines.append("  " + ", ".join(f"{name} {value}" for name, value in night.items()))
    if error.status == httpx.codes.UNAUTHORIZED:
        lines.append("  For development, `innbox token` makes tokens.")
    if error.trace_id:
        lines.append(f"  Trace {error.trace_id}")
    return "\n".join(lines)


def _client(data: Path, url: str | None, token: str | None, patience_s: float) -> Innbox:
    """Return a client, to be closed; raises `CommandError` without a URL or a token."""
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
    return Innbox(where, token or _own_token(data), patience_s=patience_s)


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


def _own_token(data: Path) -> Callable[[], str]:
    """Return a function that makes tokens for the embedded system, short-lived since used at once."""
    from api.identity.scopes import INVENTORY, OPERATE, READ, STAFF, WRITE
    from api.identity.signing import sign

    settings = settings_for(data, ())
    scopes = (READ, WRITE, STAFF, INVENTORY, OPERATE)
    return lambda: sign(settings, OWN_MEMBER, scopes, lifetime_s=_TOKEN_S)
