"""What OpenAPI says of the bulk load: Litestar cannot know what a stream consists of."""

from dataclasses import dataclass

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)

from api.inventory.reading import CSV, NDJSON

_NDJSON_EXAMPLE = (
    '{"roomId": 7, "night": "2027-01-01", "capacity": 4}\n'
    '{"roomId": 7, "from": "2027-01-01", "to": "2027-02-01", "weekdays": ["FRI", "SAT"], "minStay": 2}\n'
)
_CSV_EXAMPLE = "roomId,night,capacity,closed\n7,2027-01-01,4,\n7,2027-01-02,4,true\n"
_ANSWERS_EXAMPLE = (
    '{"line":1,"status":"applied","nights":1}\n'
    '{"line":2,"status":"refused","code":"INVALID_RANGE","field":"to",'
    '"detail":"[2027-01-04, 2027-01-01) covers no night"}\n'
    '{"lines":2,"applied":1,"refused":1}\n'
)


def _text(description: str, example: str) -> OpenAPIMediaType:
    schema = Schema(type=OpenAPIType.STRING, description=description)
    return OpenAPIMediaType(schema=schema, examples={"lines": Example(value=example)})


BODY = RequestBody(
    required=True,
    description="One change a line; both formats have the same fields.",
    content={
        NDJSON: _text("A JSON object a line.", _NDJSON_EXAMPLE),
        CSV: _text("The first line names the fields; an empty cell is not named.", _CSV_EXAMPLE),
    },
)

ANSWERS = ResponseSpec(
    str,
    generate_examples=False,
    description="An answer for each line, in order, and a summary; each a JSON object on its line.",
    media_type=NDJSON,
    examples=[Example(value=_ANSWERS_EXAMPLE)],
)


@dataclass
class BulkOperation(Operation):
    def __post_init__(self) -> None:
        self.request_body = BODY
