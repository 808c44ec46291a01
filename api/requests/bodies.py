"""Bodies: of requests, read strictly (no unknown field, no "7" where a 7 belongs), and of answers."""

from typing import Annotated, Any, Generic, Self, TypeVar

import msgspec
from litestar.dto import MsgspecDTO
from litestar.openapi.spec import Reference, Schema
from litestar.params import PathParameter
from litestar.typing import FieldDefinition

from api.problems import ProblemError
from domain.rooms.change import CAPACITY_MAX

ID_MAX = 2**63 - 1
JSON = "application/json"

Id = Annotated[int, msgspec.Meta(ge=1, le=ID_MAX)]
IdInPath = Annotated[int, PathParameter(ge=1, le=ID_MAX)]
# Postgres stores no NUL in a text. One character at least can be seen: those that cannot are written
# out, because the standards of patterns differ in what \s is.
_UNSEEN = r"\x00-\x20\x7f-\xa0\xad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\ufeff"
_NAME = rf"^[^\x00]*[^{_UNSEEN}][^\x00]*$"
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_NAME)]
Capacity = Annotated[int, msgspec.Meta(ge=0, le=CAPACITY_MAX)]


def media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What every body has in common."""


class View(msgspec.Struct, frozen=True, rename="camel"):
    """What every body of an answer has in common."""

    @classmethod
    def of(cls, one: Any) -> Self:  # noqa: ANN401 - whatever has attributes of these names and types
        return msgspec.convert(one, cls, from_attributes=True)


_AnyBody = TypeVar("_AnyBody", bound=Body)


class Strict(MsgspecDTO[_AnyBody], Generic[_AnyBody]):
    """Decodes with msgspec alone; Litestar by itself would take "7" for 7."""

    def decode_bytes(self, value: bytes) -> Any:  # noqa: ANN401 - Litestar's signature
        if media_type(self.asgi_connection.headers.get("Content-Type", JSON)) != JSON:
            raise ProblemError("UNSUPPORTED_MEDIA_TYPE", f"the body must be {JSON}")
        return msgspec.json.decode(value, type=self.model_type)

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003 - Litestar's signature
        schema_creator: Any,  # noqa: ANN401 - of a private module of Litestar
    ) -> Reference | Schema:
        """Describe the struct itself: the copy that a DTO makes of it is never used."""
        described: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return described
