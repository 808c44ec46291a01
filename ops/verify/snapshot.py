"""The tables of verifying: both contexts and every topic side by side (see `relay.audit.snapshot`).

An invariant is one query that returns what breaks it. Dates and ids are as they are written.

`message` is the outbox as its database's snapshot showed it; `late` rows were committed after it, and
serve only to explain what the topics, read later, already contain.
"""

from datetime import date
from typing import Annotated

import msgspec

from domain.messages import RESERVATION_RESULT, RESERVATIONS_SOURCE, ROOM_RESERVE, ROOMS_SOURCE
from domain.stay import CALENDAR_BEGINS_ON, CALENDAR_ENDS_ON
from innbox_process.records import Record
from relay.audit.snapshot import CLOCKS_DIFFER_S, SnapshotDatabase, topics

# Ids have a type because SQLite uses no index between a typed and an untyped column.
SCHEMA = f"""
CREATE TABLE reservation (
    id INTEGER PRIMARY KEY, room_id INTEGER, check_in, check_out, status, reason, version, created_at
);
CREATE TABLE transition (
    reservation_id INTEGER, version, status, reason, message_id, created_at
);
CREATE TABLE allocation (
    reservation_id INTEGER, room_id INTEGER, check_in, check_out, state, reason,
    reserve_message_id, cancel_message_id
);
CREATE TABLE room_night (
    room_id INTEGER, night, capacity, taken, capacity_peak, PRIMARY KEY (room_id, night)
);
CREATE TABLE guard (definition);
CREATE TABLE dead_letter (topic, partition INTEGER, offset INTEGER, state);
CREATE TABLE message (
    position, message_id, topic, key, source, created_at, relayed, late, value,
    reservation_id INTEGER, room_id INTEGER, check_in, check_out, status
);
CREATE TABLE record (
    {topics.RECORD_COLUMNS}, message_id, value,
    reservation_id INTEGER, room_id INTEGER, check_in, check_out, status
);
{topics.SCHEMA}
-- Records of a partition before `offset` are behind the group of consumers of its topic.
CREATE TABLE passed (topic, partition INTEGER, offset INTEGER);
-- From when on the outbox of a context is complete; 0 if retention has dropped nothing of it.
CREATE TABLE context (source, complete_from);
CREATE TABLE calendar (night PRIMARY KEY);
"""

# Built once everything is in: an index kept up to date row by row would cost several times as much.
INDEXES = """
CREATE INDEX transition_version ON transition (reservation_id, version);
CREATE INDEX transition_message ON transition (message_id);
CREATE INDEX allocation_reservation ON allocation (reservation_id);
CREATE INDEX message_message ON message (message_id);
CREATE INDEX message_reservation ON message (reservation_id, source);
CREATE INDEX record_message ON record (message_id);
CREATE INDEX dead_letter_place ON dead_letter (topic, partition, offset);
CREATE INDEX record_reservation ON record (reservation_id);
"""

DERIVED = f"""
-- The transitions that asked the rooms, and those that the rooms' answers brought about.
CREATE VIEW sent AS SELECT * FROM transition WHERE status IN ('PENDING', 'CANCELLING');
CREATE VIEW settled AS
    SELECT * FROM transition WHERE status IN ('CONFIRMED', 'REJECTED', 'CANCELLED');
CREATE VIEW request AS SELECT * FROM message WHERE source = '{RESERVATIONS_SOURCE}';
CREATE VIEW result AS
    SELECT * FROM message WHERE source = '{ROOMS_SOURCE}' AND topic = '{RESERVATION_RESULT}';
CREATE VIEW foreign_record AS
    SELECT * FROM record
    WHERE source IS NULL OR source NOT IN ('{RESERVATIONS_SOURCE}', '{ROOMS_SOURCE}');

-- One row: from when on requests and results are all there.
CREATE VIEW kept AS SELECT
    (SELECT complete_from FROM context WHERE source = '{RESERVATIONS_SOURCE}') AS requests_from,
    (SELECT complete_from FROM context WHERE source = '{ROOMS_SOURCE}') AS results_from;

-- Until when a topic has been trimmed: a record is published after its message was created, and
-- records leave a partition oldest first. A partition that was emptied tells no time: until ever.
CREATE VIEW trimmed AS
    SELECT topic, max(coalesce(first_at, 1e18)) + {CLOCKS_DIFFER_S} AS until
    FROM partition WHERE low > 0 GROUP BY topic;

-- What the room side says it did, by reservation, from its results alone.
CREATE TABLE answer AS SELECT
    reservation_id,
    min(CASE status WHEN 'SUCCESS' THEN position END) AS held_at,
    max(CASE status WHEN 'SUCCESS' THEN position END) AS held_again_at,
    min(CASE status WHEN 'FAILURE' THEN position END) AS refused_at,
    min(CASE status WHEN 'CANCEL' THEN position END) AS released_at
FROM result WHERE NOT late AND reservation_id IS NOT NULL GROUP BY reservation_id;
CREATE INDEX answer_reservation ON answer (reservation_id);

-- The stay as it was asked for. The allocation's own is the fallback, for requests that retention
-- dropped or that somebody else sent.
CREATE TABLE stay AS
    SELECT reservation_id, room_id, check_in, check_out, min(position) AS position
    FROM request WHERE topic = '{ROOM_RESERVE}' AND reservation_id IS NOT NULL
    GROUP BY reservation_id;
INSERT INTO stay
    SELECT reservation_id, room_id, check_in, check_out, NULL FROM allocation
    WHERE reservation_id NOT IN (SELECT reservation_id FROM stay);
CREATE INDEX stay_reservation ON stay (reservation_id);

CREATE TABLE held AS
    SELECT reservation_id, held_at, released_at FROM answer WHERE held_at IS NOT NULL;
-- Taken before the oldest result that retention kept: only the allocation remembers.
INSERT INTO held
    SELECT allocation.reservation_id, 0, released_at
    FROM allocation JOIN kept LEFT JOIN answer USING (reservation_id)
    WHERE results_from > 0 AND held_at IS NULL AND reserve_message_id IS NOT NULL
      AND reason IS NULL AND (state = 'HELD' OR released_at IS NOT NULL);

-- Every night taken (+1) or given back (-1), at the position of the result that says so. The nights of a
-- batch are locked before its results are appended, so positions are in the order of the changes.
-- CROSS JOIN is SQLite's way to say: look the few nights of each stay up, not the stays of each night.
CREATE TABLE change AS
    SELECT room_id, night, held_at AS position, 1 AS step
    FROM held JOIN stay USING (reservation_id)
    CROSS JOIN calendar WHERE night >= check_in AND night < check_out;
INSERT INTO change
    SELECT room_id, night, released_at, -1
    FROM held JOIN stay USING (reservation_id)
    CROSS JOIN calendar WHERE night >= check_in AND night < check_out AND released_at > held_at;
CREATE INDEX change_night ON change (room_id, night, position);

CREATE TABLE held_night AS
    SELECT room_id, night, reservation_id
    FROM allocation
    CROSS JOIN calendar WHERE night >= check_in AND night < check_out AND state = 'HELD';
CREATE INDEX held_night_night ON held_night (room_id, night);
"""


def build_indexes(db: SnapshotDatabase) -> None:
    """Index what was entered, and derive what the invariants are asked of."""
    days = range(CALENDAR_BEGINS_ON.toordinal(), CALENDAR_ENDS_ON.toordinal() + 1)
    db.insert("calendar", ((str(date.fromordinal(day)),) for day in days))
    db.run(INDEXES, DERIVED, "ANALYZE")


def of_record(record: Record, _published_at: float) -> tuple[object, ...]:
    """Return the last columns of the table `record`."""
    # The id is the one that our consumers take for the message's.
    return (str(record.message_id), record.value, *fields(record.value))


_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Value(msgspec.Struct, rename="camel"):
    """Any value of the wire, as a lenient outsider reads it."""

    reservation_id: _Id | None = None
    room_id: _Id | None = None
    check_in_date: str | None = None
    check_out_date: str | None = None
    status: str | None = None


_DECODER = msgspec.json.Decoder(_Value)


def fields(value: bytes | None) -> tuple[int | str | None, ...]:
    """What a value says: reservation, room, check-in, check-out, status; all None if it is unreadable."""
    try:
        read = _DECODER.decode(value or b"")
    except (ValueError, RecursionError):  # nested too deeply: a RecursionError
        read = _Value()
    return msgspec.structs.astuple(read)
