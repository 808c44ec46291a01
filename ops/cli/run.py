"""Running a command: every expected failure is one clear message and exit code 2, never a traceback."""

import click
from confluent_kafka import KafkaException
from sqlalchemy.exc import DBAPIError

from ops.cli.output import complain
from ops.errors import CommandError
from runtime.settings import SettingsError

FAILED = 2
INTERRUPTED = 130


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
    except DBAPIError as error:
        complain(f"Postgres: {str(error.orig).strip()}")
        return FAILED
    except KafkaException as error:
        complain(f"Kafka: {error.args[0].str()}")
        return FAILED
    except (SettingsError, CommandError) as error:
        complain(str(error))
        return FAILED
    return result if isinstance(result, int) else 0
