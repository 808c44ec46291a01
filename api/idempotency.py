"""The Idempotency-Key of a request: under one key, a member's request is done once.

The key is claimed and its answer kept in the transaction that does the work, so a key is remembered
if, and only if, its work is done. A refusal rolls both back: repeated, it is judged anew.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from litestar.params import HeaderParameter
from sqlalchemy import Connection

from api.problems import Refused
from domain.reservations.idempotency import (
    Claimed,
    InFlight,
    Mismatch,
    Replay,
    answer_key,
    claim_key,
)

Key = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Repeats under one key, with the same request, are done once.",
        min_length=1,
        max_length=255,
    ),
]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A member's request, perhaps not the first of its key."""

    member_id: int
    key: str | None
    request: bytes

    @property
    def fingerprint(self) -> bytes:
        return sha256(self.request).digest()


def answered(connection: Connection, attempt: Attempt) -> bytes | None:
    """Return the answer that this key got before, or claim the key for this transaction.

    Raises `Refused` if the key was used for another request, or its first one is still being done.
    """
    if attempt.key is None:
        return None
    match claim_key(connection, attempt.member_id, attempt.key, attempt.fingerprint):
        case Claimed():
            return None
        case Replay() as replay:
            assert replay.response_body is not None, (
                "a key is claimed and answered in one transaction"
            )
            return replay.response_body
        case (Mismatch() | InFlight()) as refusal:
            raise Refused(refusal)


def keep(connection: Connection, attempt: Attempt, reservation_id: int, answer: bytes) -> None:
    """Keep the answer of a claimed key for its repeats."""
    if attempt.key is not None:
        answer_key(
            connection,
            attempt.member_id,
            attempt.key,
            reservation_id=reservation_id,
            status=202,
            body=answer,
        )
