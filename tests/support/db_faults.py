"""What may befall a database, each for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, text


@contextmanager
def renamed(engine: Engine) -> Iterator[None]:
    execute(engine, "ALTER TABLE rooms.allocation RENAME TO not_migrated_yet")
    yield
    execute(engine, "ALTER TABLE rooms.not_migrated_yet RENAME TO allocation")


@contextmanager
def undeclared(engine: Engine) -> Iterator[None]:
    execute(engine, "CREATE TABLE kept AS SELECT * FROM outbox.topic")
    execute(engine, "DELETE FROM outbox.topic")
    yield
    execute(engine, "INSERT INTO outbox.topic SELECT * FROM kept")


@contextmanager
def read_only(engine: Engine) -> Iterator[None]:
    name = engine.url.database
    execute(engine, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine.dispose()
    yield
    with engine.connect() as connection:
        connection.execute(text("SET TRANSACTION READ WRITE"))
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = off"))
        connection.commit()
    engine.dispose()


@contextmanager
def refusing(engine: Engine) -> Iterator[None]:
    """A database that takes no connections, as one that is away."""
    name = engine.url.database
    admin = create_engine(engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as aside:
        aside.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        aside.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": name},
        )
        yield
        aside.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    admin.dispose()
    engine.dispose()


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    """Somebody holds a lock for longer than a statement may wait."""
    with engine.connect() as holder:
        holder.execute(text("LOCK TABLE rooms.allocation"))
        yield


TROUBLES = [renamed, undeclared, read_only, refusing, locked]


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))
