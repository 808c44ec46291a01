"""Every route, asked by everybody: who is let in, and what the others hear.

The table is compared with what a running API answers, so a route that it does not have fails the test.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from api.app import create_app
from api.identity.scopes import INVENTORY, OPERATE, READ, STAFF, WRITE
from api.identity.signing import sign
from tests.support.api_client import ANOTHER, ME, Api, a_stay, an_api
from tests.support.issuer import claims
from tests.support.waiting import eventually

# owner      made the reservation that is asked for         nobody     no token
# other      another member                                 expired    a token that was good once
# staff      may act for any member                         audience   one for another service
# stock      changes rooms and nights, and nothing else     issuer     one by another issuer
# watch      operates, and nothing else                     algorithm  by our key and another algorithm
# noscope    is known, and may nothing
TABLE = """
                                                    owner other staff stock watch noscope nobody expired audience issuer algorithm
POST /v1/reservations                                202   202   202   403   403    403    401     401      401    401       401
GET  /v1/reservations                                200   200   200   403   403    403    401     401      401    401       401
GET  /v1/reservations/{reservation_id}               200   404   200   403   403    403    401     401      401    401       401
GET  /v1/reservations/{reservation_id}/history       200   404   200   403   403    403    401     401      401    401       401
GET  /v1/reservations/{reservation_id}/events        200   404   200   403   403    403    401     401      401    401       401
POST /v1/reservations/{reservation_id}/cancellation  202   404   202   403   403    403    401     401      401    401       401
GET  /v1/rooms                                       200   200   200   200   200    200    401     401      401    401       401
PUT  /v1/rooms/{room_id}                             403   403   403   200   403    403    401     401      401    401       401
GET  /v1/rooms/{room_id}                             200   200   200   200   200    200    401     401      401    401       401
PUT  /v1/rooms/{room_id}/nights                      403   403   403   200   403    403    401     401      401    401       401
GET  /v1/rooms/{room_id}/calendar                    200   200   200   200   200    200    401     401      401    401       401
GET  /v1/rooms/{room_id}/availability                200   200   200   200   200    200    401     401      401    401       401
GET  /v1/availability                                200   200   200   200   200    200    401     401      401    401       401
POST /v1/inventory                                   403   403   403   200   403    403    401     401      401    401       401
GET  /v1/operations                                  403   403   403   403   200    403    401     401      401    401       401
GET  /problems                                       200   200   200   200   200    200    200     200      200    200       200
GET  /problems/{name}                                200   200   200   200   200    200    200     200      200    200       200
GET  /schema                                         200   200   200   200   200    200    200     200      200    200       200
GET  /schema/openapi.json                            200   200   200   200   200    200    200     200      200    200       200
GET  /schema/{path}                                  404   404   404   404   404    404    404     404      404    404       404
GET  /healthz/live                                   200   200   200   200   200    200    200     200      200    200       200
GET  /healthz/ready                                  200   200   200   200   200    200    200     200      200    200       200
GET  /metrics                                        200   200   200   200   200    200    200     200      200    200       200
"""  # noqa: E501 - a table that is broken into parts is none

SECRET = "k" * 64  # long enough for the wrong algorithm, too
SOMEBODY_OF_THE_STAFF = 9
STAY = a_stay()
NIGHTS = {"from": STAY["checkInDate"], "to": STAY["checkOutDate"]}
QUERIES: dict[str, dict[str, Any]] = {
    "/v1/rooms/{room_id}/calendar": NIGHTS,
    "/v1/rooms/{room_id}/availability": {
        "checkIn": STAY["checkInDate"],
        "checkOut": STAY["checkOutDate"],
    },
}
QUERIES["/v1/availability"] = QUERIES["/v1/rooms/{room_id}/availability"]
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/reservations": STAY,
    "PUT /v1/rooms/{room_id}": {"name": "Suite"},
    "PUT /v1/rooms/{room_id}/nights": NIGHTS | {"capacity": 5, "name": "Suite"},
    "POST /v1/inventory": {"roomId": 1, "night": STAY["checkInDate"], "capacity": 5},
}


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    with an_api(database_url, jwt_key=SECRET, requests_burst_max=10_000) as api:
        yield api


def test_everybody_is_answered_as_the_table_says(api: Api) -> None:
    clients = {name: api.client(headers) for name, headers in everybody(api).items()}
    eventually(lambda: clients["nobody"].get("/healthz/ready").status_code == 200)
    nights = BODIES["PUT /v1/rooms/{room_id}/nights"]
    clients["stock"].put("/v1/rooms/1/nights", json=nights).raise_for_status()
    made = clients["owner"].post("/v1/reservations", json=STAY)
    ids = {"reservation_id": made.json()["id"], "room_id": 1, "name": "not-found", "path": "x"}

    heard = {}
    for route in table():
        method, path = route.split()
        heard[route] = {
            name: status(client, method, path.format(**ids), QUERIES.get(path), BODIES.get(route))
            for name, client in clients.items()
        }

    assert heard == table()


def test_the_table_has_every_route(api: Api) -> None:
    """OPTIONS apart, which Litestar answers by itself and by the same guards."""
    routes = {
        f"{method} {route.path_format}"
        for route in create_app(api.settings).routes
        for method in getattr(route, "methods", ())
        if method != "OPTIONS"
    }
    assert routes == set(table())


def test_what_a_route_can_do_is_told_to_members_alone(api: Api) -> None:
    for path in {route.split()[1] for route in table() if " /v1/" in route}:
        path_to_one = path.format(reservation_id=1, room_id=1)
        assert api.client({}).options(path_to_one).status_code == 401
        assert api.member().options(path_to_one).status_code == 204


def table() -> dict[str, dict[str, int]]:
    """Read the table: of each route, who hears which status."""
    head, *lines = TABLE.strip("\n").splitlines()
    rows = [line.split() for line in lines]
    return {
        f"{method} {path}": dict(zip(head.split(), map(int, cells), strict=True))
        for method, path, *cells in rows
    }


def everybody(api: Api) -> dict[str, dict[str, str]]:
    """The headers of each of them, in the order of the table."""
    settings, may = api.settings, "read write staff inventory operate"
    signed = {
        "owner": sign(settings, ME),
        "other": sign(settings, ANOTHER),
        "staff": sign(settings, SOMEBODY_OF_THE_STAFF, [READ, WRITE, STAFF]),
        "stock": sign(settings, ME, [INVENTORY]),
        "watch": sign(settings, ME, [OPERATE]),
        "noscope": sign(settings, ME, []),
        "nobody": "",
        "expired": sign(settings, ME, may.split(), lifetime_s=-60),
        "audience": jwt.encode(claims(scope=may, aud="another"), SECRET, "HS256"),
        "issuer": jwt.encode(claims(scope=may, iss="another"), SECRET, "HS256"),
        "algorithm": jwt.encode(claims(scope=may), SECRET, "HS512"),
    }
    return {
        name: {"Authorization": f"Bearer {token}"} if token else {}
        for name, token in signed.items()
    }


def status(
    client: httpx.Client,
    method: str,
    path: str,
    query: dict[str, Any] | None,
    body: dict[str, Any] | None,
) -> int:
    """Ask, and look at the head of the answer alone: a stream of events has no end."""
    headers = {"Content-Type": "application/x-ndjson"} if path == "/v1/inventory" else {}
    with client.stream(method, path, params=query, json=body, headers=headers) as response:
        return response.status_code
