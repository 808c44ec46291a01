"""The saga as it is run: both consumers, and a relay for each database."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from sqlalchemy import Engine, create_engine

from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from domain.reservations.store import SETTLED_CHANNEL
from outbox import Doorbell, install_doorbell
from runtime.settings import Context, Settings
from tests.support.saga import a_consumer, a_relay


@contextmanager
def everything(settings: Settings) -> Iterator[tuple[Engine, Engine]]:
    """Both consumers, and a relay for each database; gives the reservations' and rooms' engines."""
    contexts: tuple[Context, ...] = ("reservations", "rooms")
    with ExitStack() as stack:
        engines = []
        for context in contexts:
            engine = create_engine(settings.database_of(context))
            stack.callback(engine.dispose)
            stack.enter_context(closing(install_doorbell(engine)))
            engines.append(engine)
        for databases_contexts in settings.databases.values():
            stack.enter_context(a_relay(settings, databases_contexts[0]))
        settled = stack.enter_context(closing(Doorbell(engines[0], SETTLED_CHANNEL)))
        stack.enter_context(a_consumer(settings, engines[1], RoomsHandler()))
        stack.enter_context(a_consumer(settings, engines[0], ResultsHandler(settled)))
        yield engines[0], engines[1]
