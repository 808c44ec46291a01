"""Migrating: every distinct database of the settings, to a revision, or as SQL for an operator to run."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError as AlembicError
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from innbox_process.commands import CommandError

# By their place beside this package, and not by name: another project has a package of that name, too.
MIGRATIONS = Path(__file__).parent.parent / "migrations"


def migrate(url: str, revision: str = "head") -> None:
    """Bring a database to a revision, each migration in a transaction of its own."""
    with _refusals():
        command.upgrade(_config(url), revision)


def migration_sql(url: str, revisions: str = "head") -> str:
    """Return the SQL of `from:to` (or of all up to a revision) without touching a database."""
    output = StringIO()
    with _refusals():
        config = _config(url)
        config.output_buffer = output
        command.upgrade(config, revisions, sql=True)
    return output.getvalue()


def current_and_head(url: str) -> tuple[str | None, str | None]:
    """Return the database's revision and the newest one."""
    with _refusals():
        head = ScriptDirectory.from_config(_config(url)).get_current_head()
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision(), head


@contextmanager
def _refusals() -> Iterator[None]:
    """Make what Alembic refuses within the block a `CommandError`."""
    try:
        yield
    except AlembicError as error:
        raise CommandError(str(error)) from error


def _config(url: str) -> Config:
    config = Config(stdout=StringIO())
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["url"] = url
    return config
