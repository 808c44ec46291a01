"""Running a command: every expected failure is one clear message and an exit code, never a traceback.

The codes are those of `ops.cli`.
"""

import click
import httpx
from alembic.util import CommandError as MigrationError
from confluent_kafka import KafkaException
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from client import Problem, Unavailable
from ops.cli.asking import explained, is_refusal
from ops.cli.output import complain
from ops.errors import CommandError
from runtime.database import advice
from runtime.settings import SettingsError

REFUSED = 1
FAILED = 2
INTERRUPTED = 130


# What may go wrong outside of us, and what a person may have got wrong.
EXPECTED = (
    SettingsError,
    CommandError,
    Problem,
    Unavailable,
    MigrationError,
    SQLAlchemyError,
    KafkaException,
    httpx.TransportError,
    OSError,
)


def run(cli: click.Command) -> int:
    """Run the command line and return the exit code."""
    try:
        result = cli.main(standalone_mode=False, prog_name="innbox")
    except click.ClickException as error:
        error.show()
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return INTERRUPTED
    except EXPECTED as error:
        complain(_explained(error))
        return REFUSED if isinstance(error, Problem) and is_refusal(error) else FAILED
    return result if isinstance(result, int) else 0


def _explained(error: Exception) -> str:
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
