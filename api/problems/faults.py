"""What exactly is wrong with a request, read from what msgspec and Litestar say of it."""

import re
from urllib.parse import quote

import msgspec
from litestar.exceptions import ValidationException

_AT = re.compile(r" - at `(\$[^`]*)`$")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_FIELD = re.compile(r"field `(.*)`$", re.DOTALL)


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault: `pointer` (RFC 6901) in the body, or the name of a parameter or header."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None


def of_body(error: msgspec.ValidationError) -> Fault:
    """Read, for instance, "Expected `int`, got `str` - at `$.weekdays[0]`"."""
    detail, path = str(error), ""
    if at := _AT.search(detail):
        detail, path = detail[: at.start()], at[1]
    steps = [name or index for name, index in _STEP.findall(path)]
    if named := _FIELD.search(detail):
        steps.append(named[1])
    return Fault(detail, pointer="#" + "".join(f"/{_escaped(step)}" for step in steps))


def of_parameters(error: ValidationException) -> tuple[Fault, ...]:
    """Read Litestar's list; a parameter that is missing is not in it but in the detail."""
    if extras := _extras(error):
        return tuple(_of_parameter(extra) for extra in extras)
    if missing := re.search(r"'(\w+)'", error.detail):
        return (Fault("it is required", parameter=missing[1]),)
    return (Fault("the request is not valid"),)


def is_of_path(error: ValidationException) -> bool:
    return any(extra.get("source") == "path" for extra in _extras(error))


def _escaped(step: str) -> str:
    """Write a name of the sender's own choice as a pointer within an address has it."""
    return quote(step.replace("~", "~0").replace("/", "~1"), safe="~")


def _extras(error: ValidationException) -> list[dict[str, str]]:
    return error.extra if isinstance(error.extra, list) else []


def _of_parameter(extra: dict[str, str]) -> Fault:
    """Name a parameter as it is sent: Litestar names the argument of the function."""
    detail, words = extra["message"], extra.get("key", "").split("_")
    match extra.get("source"):
        case "header":
            return Fault(detail, header="-".join(words).title())
        case "query":
            return Fault(detail, parameter=words[0] + "".join(map(str.title, words[1:])))
    return Fault("a body is needed", pointer="#") if words == ["data"] else Fault(detail)
