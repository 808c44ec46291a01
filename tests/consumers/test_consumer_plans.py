"""Plans of the consumers' statements: rows are reached by their keys, also in a young database."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

from consumers.process import BY_KEYS
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from innbox_process.database import pooled_engine
from runtime.settings import Settings
from tests.support.saga import a_reserve, a_result, apply, open_rooms
from tests.support.waiting import eventually

# Few enough that a planner would rather read the whole table than go by its index.
FILLED = """
    WITH filled AS (
        INSERT INTO reservations.reservation (member_id, room_id, check_in, check_out, status, version)
        SELECT 1, 7, '2026-12-24', '2026-12-27', 'PENDING', 1 FROM generate_series(1, 300)
        RETURNING id
    )
    INSERT INTO reservations.transition (reservation_id, version, status, message_id)
    SELECT id, 1, 'PENDING', gen_random_uuid() FROM filled
"""
SCANS = text("""
    SELECT sum(seq_scan), sum(idx_scan) FROM pg_stat_user_tables
    WHERE (schemaname, relname) IN (
        ('reservations', 'reservation'), ('rooms', 'allocation'), ('rooms', 'room_night')
    )
""")
BATCHES = range(1, 300, 30)


def scans(engine: Engine) -> tuple[int, int]:
    """How often the tables of a saga were read as a whole, and how often by an index."""
    with engine.connect() as connection:
        whole, by_index = connection.execute(SCANS).one()
        return int(whole), int(by_index)


@contextmanager
def reading_by_keys(engine: Engine, settings: Settings) -> Iterator[Engine]:
    """Yield an engine as the consumers have it; fails if it has read a whole table."""
    open_rooms(engine, capacity=1_000)
    with engine.begin() as connection:
        connection.execute(text(FILLED))
    engine.dispose()  # a session tells the statistics at its end
    whole, by_index = scans(engine)
    consumers = pooled_engine(settings, settings.database_url, "test", options=BY_KEYS)
    yield consumers
    consumers.dispose()
    eventually(lambda: scans(engine)[1] >= by_index + len(BATCHES))
    assert scans(engine)[0] == whole


def test_the_rooms_read_no_whole_table(engine: Engine, settings: Settings) -> None:
    with reading_by_keys(engine, settings) as consumers:
        for first in BATCHES:
            apply(consumers, RoomsHandler(), *(a_reserve(n, n) for n in range(first, first + 30)))


def test_the_results_read_no_whole_table(
    engine: Engine, settings: Settings, results: ResultsHandler
) -> None:
    with reading_by_keys(engine, settings) as consumers:
        for first in BATCHES:
            apply(consumers, results, *(a_result(n) for n in range(first, first + 30)))
