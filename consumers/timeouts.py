"""Timeouts: a saga that waits too long is asked again, and a key that nobody repeats is forgotten.

Asking again decides nothing: the same request goes out under a new message id and in a trace of its own,
and the room side answers from its allocation.
"""

from dataclasses import replace

import structlog
from sqlalchemy import Engine

import outbox
from consumers.metrics import REDRIVEN
from domain import messages
from domain.idempotency import IdempotencyKeys
from domain.messages import Envelope
from domain.reservations import store
from domain.reservations.model import INNBOX, Cause, Reservation, Status, redrive
from runtime.traces import begun, trace_id

_log = structlog.get_logger(__name__)

# A run asks so many again at most; the rest has the next run.
REDRIVEN_MAX = 500
# So many keys a transaction: a part takes far less than a statement may.
FORGOTTEN_AT_ONCE = 10_000


def redrive_once(engine: Engine, older_than_s: float) -> int:
    """Ask again for every saga that has waited this long, or longer each time; returns how many."""
    with engine.begin() as connection:
        waiting = store.stale(connection, older_than_s, REDRIVEN_MAX)
        asked = [(redrive(reservation), _request(reservation)) for reservation in waiting]
        store.save_transitions(connection, [(one, _cause(request)) for one, request in asked])
        outbox.append(connection, [request for _, request in asked])
    if asked:
        REDRIVEN.inc(len(asked))
        _log.warning("sagas asked again", count=len(asked), first=asked[0][0].id)
    return len(asked)


def forget_keys_once(engine: Engine, keys: IdempotencyKeys, older_than_s: float) -> int:
    """Forget the idempotency keys of requests so long ago, part by part; returns how many."""
    forgotten = 0
    while True:
        with engine.begin() as connection:
            part = keys.forget(connection, older_than_s, FORGOTTEN_AT_ONCE)
        forgotten += part
        if part < FORGOTTEN_AT_ONCE:
            return forgotten


def _request(reservation: Reservation) -> Envelope:
    """Return the request that the reservation's status waits for an answer to."""
    write = messages.room_reserve if reservation.status is Status.PENDING else messages.room_cancel
    request = write(reservation.id, reservation.room_id, reservation.stay)
    return replace(request, headers={"traceparent": begun()})


def _cause(request: Envelope) -> Cause:
    return Cause(request.message_id, INNBOX, trace_id(request.headers["traceparent"]))
