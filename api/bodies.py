"""Bodies of requests, read strictly: no unknown field, and no "7" where a 7 belongs."""

from datetime import date
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from litestar.dto import MsgspecDTO
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from domain.rooms.calendar import CAPACITY_MAX

ID_MAX = 2**63 - 1

Id = Annotated[int, msgspec.Meta(ge=1, le=ID_MAX)]
# Postgres stores no NUL in a text.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern="^[^\\x00]*$")]
Capacity = Annotated[int, msgspec.Meta(ge=0, le=CAPACITY_MAX)]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What every body has in common."""


class NewStay(Body, frozen=True):
    """The nights of [checkInDate, checkOutDate) in one room."""

    room_id: Id
    check_in_date: date
    check_out_date: date


class Nights(Body, frozen=True):
    """The nights of [from, to): how many rooms there are; a name renames the room."""

    from_: date = msgspec.field(name="from")
    to: date
    capacity: Capacity
    name: Name | None = None


_AnyBody = TypeVar("_AnyBody", bound=Body)


class Strict(MsgspecDTO[_AnyBody], Generic[_AnyBody]):
    """Decodes with msgspec alone; Litestar by itself would take "7" for 7."""

    def decode_bytes(self, value: bytes) -> Any:  # noqa: ANN401 - Litestar's signature
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
