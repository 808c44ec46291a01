"""What is checked of every request to a route: its query parameters and header fields, read strictly.

A parameter that a route does not know is refused, not passed over: a caller who misspells a filter would
otherwise get everything, and not notice. So too with `limit=null`, which Litestar takes for no limit.

Of a header field on several lines, Litestar would take one and pass over the others. RFC 9110 has lists
joined by commas, and everything else given once.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final

from litestar.enums import ParamType
from litestar.handlers import BaseRouteHandler
from litestar.params import ParameterKwarg
from litestar.typing import FieldDefinition

from api.identity.auth import AnyConnection
from api.problems import Invalid, ProblemError
from api.problems.faults import Fault

_LISTS: Final = frozenset({b"if-match", b"if-none-match", b"prefer"})
_ONCE: Final = {b"idempotency-key": "Idempotency-Key", b"last-event-id": "Last-Event-ID"}


def known_parameters(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Raise for an unknown parameter, and for one that is given twice for once."""
    if not connection.scope["query_string"]:
        return
    if faults := list(_faults(connection, _parameters(handler))):
        raise ProblemError("INVALID_REQUEST", faults[0].detail, *faults)


@cache  # a route's handler lives as long as the application
def _parameters(handler: BaseRouteHandler) -> Mapping[str, Sequence[FieldDefinition]]:
    """By the names they are sent with: all types that a value may have."""
    return {
        field.kwarg_definition.name or name: (field, *field.inner_types)
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, ParameterKwarg)
        and field.kwarg_definition.param_type is ParamType.QUERY
    }


def _faults(
    connection: AnyConnection, known: Mapping[str, Sequence[FieldDefinition]]
) -> Iterator[Fault]:
    for name, values in connection.query_params.dict().items():
        types = known.get(name)
        if types is None:
            yield Fault("unknown parameter", parameter=name)
        elif len(values) > 1 and not any(one.is_non_string_sequence for one in types):
            yield Fault("it is given more than once", parameter=name)
        elif "null" in map(str.lower, values) and all(one.annotation is not str for one in types):
            yield Fault("null is not a value; leave the parameter out", parameter=name)


def one_line_each(connection: AnyConnection, _: BaseRouteHandler) -> None:
    """Join the lines of a list, and raise `Invalid` for several lines of what is given once."""
    headers = list(connection.scope["headers"])
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    if len(found) == len(headers):
        return
    for name, written in _ONCE.items():
        if len(found.get(name, ())) > 1:
            raise Invalid("it is given more than once", header=written)
    others = [(name, value) for name, value in headers if name not in _LISTS]
    joined = ((name, b", ".join(found[name])) for name in _LISTS & found.keys())
    connection.scope["headers"] = [*others, *joined]
