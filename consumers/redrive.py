"""Redrive: a request that waits too long for its result is sent again.

To send it again decides nothing: the same request goes out under a new message id and in a trace of its
own, and the rooms consumer answers from its allocation.
"""

from dataclasses import replace

import structlog
from sqlalchemy import Engine

import outbox
from consumers.metrics import REDRIVEN
from domain import messages
from domain.messages import Envelope
from domain.reservations import store
from domain.reservations.model import INNBOX, Cause, Reservation, Status, redrive
from runtime.traces import begun, trace_id

_log = structlog.get_logger(__name__)

# Per run at most; the next run sends the rest.
REDRIVEN_MAX = 500


def redrive_once(engine: Engine, older_than_s: float) -> int:
    """Send every request again that has waited this long, or longer each time; returns how many."""
    with engine.begin() as connection:
        waiting = store.stale(connection, older_than_s, REDRIVEN_MAX)
        sent = [(redrive(reservation), _request(reservation)) for reservation in waiting]
        store.save_transitions(connection, [(one, _cause(request)) for one, request in sent])
        outbox.append(connection, [request for _, request in sent])
    if sent:
        REDRIVEN.inc(len(sent))
        _log.warning("pending requests re-sent", count=len(sent), first=sent[0][0].id)
    return len(sent)


def _request(reservation: Reservation) -> Envelope:
    """Return the request that the reservation's status waits for an answer to."""
    write = messages.room_reserve if reservation.status is Status.PENDING else messages.room_cancel
    request = write(reservation.id, reservation.room_id, reservation.stay)
    return replace(request, headers={"traceparent": begun()})


def _cause(request: Envelope) -> Cause:
    return Cause(request.message_id, INNBOX, trace_id(request.headers["traceparent"]))
