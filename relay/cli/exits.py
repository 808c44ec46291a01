"""Running a command: every expected failure is one clear message and an exit code, never a traceback.

The codes are those of `relay.cli`.
"""

import sys
from collections.abc import Callable

import click

from innbox_process.commands import CommandError
from innbox_process.hangups import mute_unread

REFUSED = 1
FAILED = 2
INTERRUPTED = 130
HUNG_UP = 141  # as the shell says it of a program that SIGPIPE ended

_LOCKED = (
    "another transaction holds a lock that this command needs, and did not end in time; find it in "
    "pg_stat_activity, and try again when it has ended"
)

Expected = tuple[type[Exception], ...]


def expected() -> Expected:
    """Return what may go wrong outside of a command, and what a person may have got wrong.

    Python asks for it when something has gone wrong, and only then are these libraries needed.
    """
    from confluent_kafka import KafkaException
    from sqlalchemy.exc import SQLAlchemyError

    from innbox_process.config import SettingsError

    return (SettingsError, CommandError, SQLAlchemyError, KafkaException, OSError)


def in_words(error: Exception) -> str:
    """Say what went wrong, for one of the expected errors."""
    from confluent_kafka import KafkaException
    from psycopg.errors import LockNotAvailable
    from sqlalchemy.exc import DBAPIError

    from innbox_process.database import advice

    match error:
        case DBAPIError(orig=LockNotAvailable()):
            return f"Postgres: {_LOCKED}"
        case DBAPIError():
            return "; ".join(filter(None, (f"Postgres: {str(error.orig).strip()}", advice(error))))
        case KafkaException():
            return f"Kafka: {error.args[0].str()}"
        case TimeoutError():
            return str(error) or "no answer in time"
    return str(error)


def run(
    cli: click.Command,
    program: str,
    *,
    expected: Callable[[], Expected] = expected,
    in_words: Callable[[Exception], str] = in_words,
    is_refusal: Callable[[Exception], bool] = lambda _: False,
) -> int:
    """Run a command line and return the exit code.

    A reader of the output that hangs up (`| head`) ends the command, and nothing is said of it.
    """
    output = sys.stdout
    try:
        exit_code = _run(cli, program, expected, in_words, is_refusal)
    except BrokenPipeError:
        exit_code = HUNG_UP
    except SystemExit:
        if sys.stdout is output:
            raise
        exit_code = HUNG_UP  # click has met it first: it replaces the streams, and exits with 1
    finally:
        has_hung_up = mute_unread()
    return HUNG_UP if has_hung_up else exit_code


def _run(
    cli: click.Command,
    program: str,
    expected: Callable[[], Expected],
    in_words: Callable[[Exception], str],
    is_refusal: Callable[[Exception], bool],
) -> int:
    try:
        result = cli.main(standalone_mode=False, prog_name=program)
    except BrokenPipeError:
        raise
    except click.ClickException as error:
        error.show()
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        _print_error(program, "interrupted")
        return INTERRUPTED
    except CommandError as error:
        _print_error(program, str(error))
        return FAILED
    except expected() as error:
        _print_error(program, in_words(error))
        return REFUSED if is_refusal(error) else FAILED
    return result if isinstance(result, int) else 0


def _print_error(program: str, message: str) -> None:
    from relay.cli.output import print_error

    print_error(program, message)
