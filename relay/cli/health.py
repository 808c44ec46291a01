"""`health`: what a container runs every few seconds, so it imports next to nothing."""

from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import urlopen

import click

from innbox_process.commands import CommandError

NOT_READY = 1
ANSWER_S_MAX = 5


@click.command()
@click.argument("url")
def health(url: str) -> int:
    """Check whether a process is ready: exit code 0 if it is, 1 if not, 2 without an answer.

    \b
    PROGRAM health http://127.0.0.1:9000
    """
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url} is no URL; write, for example, http://127.0.0.1:9000")
    try:
        is_ready, text = _ask(f"{url.rstrip('/')}/healthz/ready")
    except (OSError, HTTPException, ValueError) as error:
        raise CommandError(f"{url} does not answer: {error}") from error
    click.echo(text)
    return 0 if is_ready else NOT_READY


def _ask(url: str) -> tuple[bool, str]:
    try:
        with urlopen(url, timeout=ANSWER_S_MAX) as answer:  # noqa: S310 - the scheme was looked at
            return True, answer.read().decode("utf-8", "replace")
    except HTTPError as refusal:
        with refusal:
            return False, refusal.read().decode("utf-8", "replace")
