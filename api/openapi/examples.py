"""Examples of every operation: what a caller sends, and what they are answered when it goes well.

They tell one story: member 42 asks for room 7. Examples of errors belong to the types of problems.
"""

import json
from typing import Any, Final

from api.problems.types import TYPES

_AT: Final = "2026-12-01T09:30:00.123456Z"
_TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
_ROOM: Final = {"id": 7, "name": "Suite, lake"}
_FAILING: Final = [{"night": "2027-01-12", "reason": "SOLD_OUT"}]

_STAY: Final = {"roomId": 7, "checkInDate": "2027-01-10", "checkOutDate": "2027-01-13"}

_PENDING: Final = {
    "id": 4711,
    "memberId": 42,
    **_STAY,
    "status": "PENDING",
    "reason": None,
    "reasonCode": None,
    "version": 1,
    "createdAt": _AT,
    "updatedAt": _AT,
}
_CONFIRMED: Final = _PENDING | {"status": "CONFIRMED", "version": 2}
_CANCELLING: Final = _PENDING | {"status": "CANCELLING", "version": 3}
_CANCELLED: Final = _PENDING | {"status": "CANCELLED", "version": 4}
_REJECTED: Final = _PENDING | {
    "status": "REJECTED",
    "reason": "SOLD_OUT: no room left on 2027-01-12",
    "reasonCode": "SOLD_OUT",
    "version": 2,
}

_ASKED: Final = {
    "version": 1,
    "status": "PENDING",
    "at": _AT,
    "by": "member:42",
    "reason": None,
    "messageId": "0192f3a1-7c1e-4b52-9d5e-2f6f0c1b8a11",
    "traceId": _TRACE_ID,
}
_HELD: Final = _ASKED | {
    "version": 2,
    "status": "CONFIRMED",
    "by": "rooms",
    "messageId": "0192f3a1-7c2a-4e0f-8a3b-51d7e09c4d22",
}
_EVENT: Final = {"id": "1", "event": "transition", "data": json.dumps(_ASKED)}

_NIGHT: Final = {
    "night": "2027-01-10",
    "capacity": 4,
    "taken": 1,
    "free": 3,
    "closed": False,
    "minStay": 1,
    "closedToArrival": False,
    "closedToDeparture": False,
}
_SOLD_OUT: Final = {"bookable": False, "minimumFree": 0, "failingNights": _FAILING}
_PROBLEM: Final = TYPES["NOT_CANCELLABLE"].page

# By operation: bodies that are sent, by a name for each.
REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "reserve": {"one's own": _STAY, "by the staff": _STAY | {"memberId": 42}},
    "nameRoom": {"a name": {"name": "Suite, lake"}},
    "setNights": {
        "opened": {"from": "2027-01-01", "to": "2027-02-01", "capacity": 4},
        "week-ends": {
            "from": "2027-01-01",
            "to": "2027-02-01",
            "weekdays": ["FRI", "SAT"],
            "minStay": 2,
        },
    },
}

# By operation and status: bodies that are answered, by a name for each.
ANSWERS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "reserve": {
        "202": {"accepted": _PENDING},
        "200": {"confirmed": _CONFIRMED, "rejected": _REJECTED},
    },
    "listReservations": {
        "200": {"a page": {"items": [_CONFIRMED], "next": "AAAAAAAAEmfEZgSQjGymTCnU"}}
    },
    "getReservation": {"200": {"confirmed": _CONFIRMED, "rejected": _REJECTED}},
    "getHistory": {"200": {"confirmed": {"items": [_ASKED, _HELD]}}},
    "followReservation": {"200": {"an event": _EVENT}},
    "cancelReservation": {"202": {"accepted": _CANCELLING}, "200": {"cancelled": _CANCELLED}},
    "listRooms": {"200": {"a page": {"items": [_ROOM], "next": None}}},
    "getRoom": {"200": {"a room": _ROOM}},
    "nameRoom": {"200": {"named": _ROOM}},
    "getCalendar": {"200": {"a night": {"roomId": 7, "name": "Suite, lake", "nights": [_NIGHT]}}},
    "setNights": {"200": {"opened": {"roomId": 7, "nights": 31}}},
    "getAvailability": {
        "200": {
            "free": {"bookable": True, "minimumFree": 3, "failingNights": []},
            "sold out": _SOLD_OUT,
        }
    },
    "searchRooms": {
        "200": {
            "a page": {"items": [{"roomId": 7, "name": "Suite, lake", **_SOLD_OUT}], "next": None}
        }
    },
    "getOperations": {
        "200": {
            "quiet": {
                "sagas": {"pending": 2, "cancelling": 0, "oldestAgeS": 0.25},
                "outbox": {"backlog": 3, "blockedKeys": 0},
            }
        }
    },
    "listProblems": {"200": {"all": {"items": [_PROBLEM]}}},
    "getProblem": {"200": {"one": _PROBLEM}},
}

# By operation and its parameters: a value that is sent.
PARAMETERS: Final[dict[str, Any]] = {
    "reservation_id": 4711,
    "room_id": 7,
    "roomId": 7,
    "memberId": 42,
    "name": "not-cancellable",
    "status": ["PENDING"],
    "checkInFrom": "2027-01-01",
    "checkInTo": "2027-02-01",
    "checkIn": "2027-01-10",
    "checkOut": "2027-01-13",
    "from": "2027-01-01",
    "to": "2027-02-01",
}
