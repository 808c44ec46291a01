"""Running a command: every expected failure is one clear message and an exit code, never a traceback.

The codes are those of `ops.cli`.
"""

import sys

import click

from innbox_process.hangups import mute_unread
from ops.errors import CommandError

REFUSED = 1
FAILED = 2
INTERRUPTED = 130
HUNG_UP = 141  # as the shell says it of a program that SIGPIPE ended


def run(cli: click.Command) -> int:
    """Run the command line and return the exit code.

    A reader of the output that hangs up (`| head`) ends the command, and nothing is said of it.
    """
    output = sys.stdout
    try:
        exit_code = _run(cli)
    except BrokenPipeError:
        exit_code = HUNG_UP
    except SystemExit:
        if sys.stdout is output:
            raise
        exit_code = HUNG_UP  # click has met it first: it replaces the streams, and exits with 1
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
        _complain("interrupted")
        return INTERRUPTED
    except CommandError as error:
        _complain(str(error))
        return FAILED
    except expected() as error:
        _complain(in_words(error))
        return REFUSED if _is_refusal(error) else FAILED
    return result if isinstance(result, int) else 0


def expected() -> tuple[type[Exception], ...]:
    """Return what may go wrong outside of us, and what a person may have got wrong.

    Python asks for it when something has gone wrong, and only then are these libraries needed.
    """
    import httpx
    from confluent_kafka import KafkaException
    from sqlalchemy.exc import SQLAlchemyError

    from innbox_client import Problem, Unavailable
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
    """Say what went wrong, for one of the expected errors."""
    from confluent_kafka import KafkaException
    from sqlalchemy.exc import DBAPIError

    from innbox_client import Problem, Unavailable
    from innbox_process.database import advice
    from ops.cli.api_client import explained

    match error:
        case Problem() | Unavailable():
            return explained(error)
        case DBAPIError():
            return "; ".join(filter(None, (f"Postgres: {str(error.orig).strip()}", advice(error))))
        case KafkaException():
            return f"Kafka: {error.args[0].str()}"
        case TimeoutError():
            return str(error) or "no answer in time"
    return str(error)


def _is_refusal(error: Exception) -> bool:
    from innbox_client import Problem
    from ops.cli.api_client import is_refusal

    return isinstance(error, Problem) and is_refusal(error)


def _complain(message: str) -> None:
    from ops.cli.output import complain

    complain(message)
