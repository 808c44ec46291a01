"""Kafka, asked: an administrator that is quiet, and where the logs of partitions begin and end."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # OffsetSpec is public all the same
    AdminClient,
    OffsetSpec,
)

__all__ = ["BEGINNING", "END", "OffsetSpec", "Place", "at_instant", "offsets", "quiet_admin"]

# A topic, and a partition of it.
Place = tuple[str, int]

BEGINNING: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
END: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


def quiet_admin(kafka: Mapping[str, Any]) -> AdminClient:
    """Return a client whose failures are raised and said once, not logged for each connection."""
    return AdminClient({**kafka, "log_level": 0})


def at_instant(seconds: float) -> OffsetSpec:
    """Name the first record of that time, in seconds since 1970, or of a later one."""
    spec: OffsetSpec = OffsetSpec.for_timestamp(max(0, int(seconds * 1000)))
    return spec


def offsets(
    admin: AdminClient,
    places: Iterable[Place],
    which: OffsetSpec,
    *,
    timeout_s: float,
    wait_for: Callable[[Future[Any]], None] | None = None,
) -> dict[Place, int]:
    """Return that offset of each partition; records that are not committed yet count, too.

    One question for all partitions: the consumer's own takes a quarter of a second for each. `wait_for`
    may wait for each answer, and raise where that is to end.
    """
    asked: dict[TopicPartition, Future[Any]] = admin.list_offsets(
        {TopicPartition(*place): which for place in places},
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=timeout_s,
    )
    found = {}
    for one, answer in asked.items():
        if wait_for:
            wait_for(answer)
        found[one.topic, one.partition] = int(answer.result().offset)
    return found
