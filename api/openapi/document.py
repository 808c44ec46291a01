"""The OpenAPI document: what Litestar finds out about the routes, completed and corrected.

Added are examples, headers, links from one operation to those that follow it, and scopes. Corrected is
what Litestar describes wrongly: schemas of bodies are those that msgspec decodes by, and an optional
parameter is not therefore nullable.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Litestar, Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from api.identity.scopes import SCOPES
from api.openapi.examples import ANSWERS, PARAMETERS, REQUESTS
from api.requests.bodies import Body

Document = dict[str, Any]

_HEADERS: Final = {
    "traceparent": "The trace that the request belongs to (W3C).",
    "ETag": "The reservation's version.",
    "Location": "Where the reservation is.",
    "Preference-Applied": "How long was waited for at most, if it was asked for.",
    "Idempotency-Replayed": "`true` where an earlier request with this key was answered again.",
    "Link": "The next page, if there is one (RFC 8288).",
    "Retry-After": "After how many seconds to try again.",
    "WWW-Authenticate": "What the token lacks (RFC 6750).",
    "Cache-Control": "Not for caches that others share.",
}
_ALWAYS: Final = {"traceparent", "ETag", "Location", "WWW-Authenticate", "Cache-Control"}
_OF_A_CHANGE: Final = ("ETag", "Location", "Preference-Applied", "Idempotency-Replayed")
# By operation and status, then by status alone.
_HEADERS_OF: Final = {
    ("reserve", "200"): _OF_A_CHANGE,
    ("reserve", "202"): _OF_A_CHANGE,
    ("cancelReservation", "200"): _OF_A_CHANGE,
    ("cancelReservation", "202"): _OF_A_CHANGE,
    ("getReservation", "200"): ("ETag", "Cache-Control"),
    ("getReservation", "304"): ("ETag", "Cache-Control"),
    ("listReservations", "200"): ("Link",),
    ("followReservation", "200"): ("Cache-Control",),
    "401": ("WWW-Authenticate",),
    "403": ("WWW-Authenticate",),
    "409": ("Retry-After",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}

_OF_ONE: Final = ("getReservation", "getHistory", "followReservation", "cancelReservation")
# By operation: those that can follow, with the parameter that they take from the answer.
_LINKS: Final = {
    "reserve": (_OF_ONE, "reservation_id", "$response.body#/id"),
    "cancelReservation": (_OF_ONE, "reservation_id", "$response.body#/id"),
    "listReservations": (_OF_ONE, "reservation_id", "$response.body#/items/0/id"),
    "nameRoom": (("getRoom", "setNights", "getCalendar"), "room_id", "$response.body#/id"),
    "setNights": (("getRoom", "getAvailability"), "room_id", "$response.body#/roomId"),
}


class Completed(JsonRenderPlugin):
    """Serves the completed document as JSON alone: a page would load its scripts from another site."""

    def __init__(self, page_size_max: int) -> None:
        super().__init__(path=["/", "/openapi.json"])
        self._page_size_max = page_size_max
        self._rendered = b""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        if not self._rendered:  # anybody may ask, and the event loop answers
            plain = super().render(request, openapi_schema)
            found = completed(msgspec.json.decode(plain), self._page_size_max)
            self._rendered = msgspec.json.encode(found)
        return self._rendered


def openapi_config(page_size_max: int) -> OpenAPIConfig:
    scopes = "\n".join(f"- `{scope}`: {meaning}" for scope, meaning in SCOPES.items())
    bearer = SecurityScheme(
        type="http",
        scheme="bearer",
        bearer_format="JWT",
        description=f"`sub` is the member's id; `scope` has, separated by spaces:\n{scopes}",
    )
    return OpenAPIConfig(
        title="innbox",
        version="1",
        description="Hotel reservations that are not lost. Errors are RFC 9457 problems.",
        components=Components(security_schemes={"bearer": bearer}),
        path="/schema",
        render_plugins=[Completed(page_size_max)],
        use_handler_docstrings=True,
    )


def document(app: Litestar, page_size_max: int) -> Document:
    """Return what is served, without a server."""
    plain = msgspec.json.encode(app.openapi_schema.to_schema())
    return completed(msgspec.json.decode(plain), page_size_max)


def completed(found: Document, page_size_max: int) -> Document:
    found["components"]["schemas"] |= _bodies()
    for path, item in found["paths"].items():
        for operation in item.values():
            _complete(path, operation, page_size_max)
    return found


def _complete(path: str, operation: Document, page_size_max: int) -> None:
    name = operation["operationId"]
    for parameter in operation.get("parameters", ()):
        _correct_parameter(parameter, page_size_max)
    # Litestar adds a route's to that of all routes, as if either were enough; the route's is last.
    if "security" in operation:
        operation["security"] = operation["security"][-1:]
    if examples := REQUESTS.get(name):
        for media in operation["requestBody"]["content"].values():
            media["examples"] = _named(examples)
    for status, response in operation["responses"].items():
        _complete_response(path, name, status, response)


def _bodies() -> Mapping[str, Document]:
    """Schemas of all bodies, as msgspec has them: with bounds that are zero, and no unknown fields."""
    bodies = Body.__subclasses__()
    for body in bodies:  # which grows: theirs come behind them
        bodies += body.__subclasses__()
    template = "#/components/schemas/{name}"
    return msgspec.json.schema_components(bodies, ref_template=template)[1]


def _correct_parameter(parameter: Document, page_size_max: int) -> None:
    name, schema = parameter["name"], parameter["schema"]
    described = [one for one in schema.pop("oneOf", ()) if one != {"type": "null"}]
    if described:
        [only] = described
        schema |= only
    schema.pop("description", None)  # the parameter has it
    if name == "limit":
        schema["maximum"] = page_size_max
    if name == "Last-Event-ID":
        schema["minimum"] = 0  # which Litestar takes for none
    if name in PARAMETERS:
        parameter["example"] = PARAMETERS[name]


def _complete_response(path: str, operation_id: str, status: str, response: Document) -> None:
    content = response.get("content") or {}
    for media in content.values():
        for example in media.get("examples", {}).values():
            example.pop("id", None)  # Litestar's, not the standard's
        if examples := ANSWERS.get(operation_id, {}).get(status):
            media["examples"] = _named(examples)
    if "text/event-stream" in content:
        content["text/event-stream"]["schema"] = _EVENT
    if path.startswith("/problems") and status == "200":
        content["text/html"] = {"schema": {"type": "string"}, "examples": _named({"a page": _PAGE})}
    own, common = _HEADERS_OF.get((operation_id, status), ()), _HEADERS_OF.get(status, ())
    names = ("traceparent", *own, *common)
    response["headers"] = {name: _header(name, status) for name in names}
    if operation_id in _LINKS and status.startswith("2"):
        following, parameter, value = _LINKS[operation_id]
        response["links"] = {
            name: {"operationId": name, "parameters": {parameter: value}} for name in following
        }


# The schema of a stream of events is that of each event: so OpenAPI before 3.2 is commonly read.
_EVENT: Final = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "The version, for `Last-Event-ID`."},
        "event": {"const": "transition"},
        "retry": {
            "type": "integer",
            "description": "Milliseconds to wait before connecting again.",
        },
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/TransitionView"},
        },
    },
}
_PAGE: Final = '<!DOCTYPE html>\n<html lang="en">…</html>\n'


def _header(name: str, status: str) -> Document:
    always = name in _ALWAYS or (name == "Retry-After" and status != "409")
    return {"description": _HEADERS[name], "required": always, "schema": {"type": "string"}}


def _named(examples: Mapping[str, Any]) -> Document:
    return {name: {"value": value} for name, value in examples.items()}
