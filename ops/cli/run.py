"""Running a command: every expected error is one message and an exit code, never a traceback.

The codes are those of `ops.cli`.
"""

import sys

import click

from ops.errors import CommandError
from runtime.hangups import mute_unread

REFUSED = 1
FAILED = 2
INTERRUPTED = 130
HUNG_UP = 141  # the shell's code of a program that SIGPIPE ended


def run(cli: click.Command) -> int:
    """Run the command line and return the exit code.

    A reader of the output that closes the pipe (`| head`) ends the command without a message.
    """
    output = sys.stdout
    try:
        exit_code = _run(cli)
    except BrokenPipeError:
        exit_code = HUNG_UP
    except SystemExit:
        if sys.stdout is output:
            raise
        exit_code = HUNG_UP  # click handled it: it replaces the streams, and exits with 1
    finally:
        has_hung_up = mute_unread()
    return HUNG_UP if has_hung_up else exit_code


def _run(cli: click.Command) -> int:
    try:
        result = cli.main(standalone_mode=False, prog_name="innbox")
    except BrokenPipeError:
        raise
    except click.ClickException as error:
        error.show()
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        _print_error("interrupted")
        return INTERRUPTED
    except CommandError as error:
        _print_error(str(error))
        return FAILED
    except expected() as error:
        _print_error(in_words(error))
        return REFUSED if _is_refusal(error) else FAILED
    return result if isinstance(result, int) else 0


def expected() -> tuple[type[Exception], ...]:
    """Return the errors of other systems and of the command's input.

    Python evaluates the `except` clause only after an error, and only then imports these libraries.
    """
    import httpx
    from confluent_kafka import KafkaException
    from sqlalchemy.exc import SQLAlchemyError

    from client import Problem, Unavailable
    from runtime.settings import SettingsError

    return (
        SettingsError,
        CommandError,
        Problem,
        Unavailable,
        SQLAlchemyError,
        KafkaException,
        httpx.TransportError,
        OSError,
    )


def in_words(error: Exception) -> str:
    """Return the message of an expected error."""
    from confluent_kafka import KafkaException
    from sqlalchemy.exc import DBAPIError

    from client import Problem, Unavailable
    from ops.cli.api_client import explained
    from runtime.database import advice

    match error:
        case Problem() | Unavailable():
            return explained(error)
        case DBAPIError():
            return "; ".join(filter(None, (f"Postgres: {str(error.orig).strip()}", advice(error))))
        case KafkaException():
            return f"Kafka: {error.args[0].str()}"
        case TimeoutError():
            return str(error) or "timed out without an answer"
    return str(error)


def _is_refusal(error: Exception) -> bool:
    from client import Problem
    from ops.cli.api_client import is_refusal

    return isinstance(error, Problem) and is_refusal(error)


def _print_error(message: str) -> None:
    from ops.cli.output import complain

    complain(message)
