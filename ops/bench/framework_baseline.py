"""The framework's own floor: the API as it is deployed, but nobody writes the reservation down.

Tokens, routes, bodies, responses and metrics are those of POST /v1/reservations; what is left out is the
round trip. `python -m ops.bench.framework_baseline` is for the benchmark to start, as often as it likes:
all of them share the port of the settings.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from unittest.mock import patch

from api.serving.process import run
from innbox_process.logs import configure_logs
from ops.signals import end_with_supervisor
from runtime.pipeline import PipelinePool, Rows, Statement
from runtime.settings import load_settings


async def execute(_: PipelinePool, statements: Sequence[Statement], **__: object) -> list[Rows]:
    """Stand in for the round trip: id and time of the reservation, and that the key's lock is held."""
    return [[]] * (len(statements) - 1) + [[(1, datetime.now(UTC), True)]]


def main() -> None:
    end_with_supervisor()
    settings = load_settings()
    configure_logs(settings, "floor")
    with patch.object(PipelinePool, "execute", execute):
        run(settings)


if __name__ == "__main__":
    main()
