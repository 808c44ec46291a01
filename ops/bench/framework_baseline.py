"""The framework's own floor: the API as it is deployed, but nobody writes the reservation down.

Tokens, routes, bodies, responses and metrics are those of POST /v1/reservations; what is left out is the
round trip. The benchmark starts `python -m ops.bench.framework_baseline api`, as often as it likes: all
of them share the port of the settings.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from unittest.mock import patch

from ops.cli import main
from runtime.pipeline import PipelinePool, Rows, Statement


async def execute(_: PipelinePool, statements: Sequence[Statement], **__: object) -> list[Rows]:
    """Stand in for the round trip: id and time of the reservation, and that the key's lock is held."""
    return [[]] * (len(statements) - 1) + [[(1, datetime.now(UTC), True)]]


if __name__ == "__main__":
    with patch.object(PipelinePool, "execute", execute):
        main()
