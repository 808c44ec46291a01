"""A client of innbox's API for Python: typed, synchronous, and careful.

    with Innbox("https://innbox.example", token) as innbox:
        reservation = innbox.reserve(7, date(2027, 1, 10), date(2027, 1, 13), wait_s=10)
        print(reservation.status)

Whatever changes something goes under an idempotency key and is repeated under it until an answer comes,
so a lost answer never means a doubled reservation. Results are frozen; fields that a newer API adds are
ignored.
"""

from innbox_client.errors import Fault, Problem, Unavailable
from innbox_client.innbox import Innbox
from innbox_client.loading import Format, LineRefused, Loaded
from innbox_client.values import (
    Availability,
    Calendar,
    FailingNight,
    Filters,
    Night,
    NightsChange,
    NightsSet,
    Reservation,
    Room,
    RoomAvailability,
    Transition,
)

__all__ = [
    "Availability",
    "Calendar",
    "FailingNight",
    "Fault",
    "Filters",
    "Format",
    "Innbox",
    "LineRefused",
    "Loaded",
    "Night",
    "NightsChange",
    "NightsSet",
    "Problem",
    "Reservation",
    "Room",
    "RoomAvailability",
    "Transition",
    "Unavailable",
]
