"""The framework's baseline: the API as it is deployed, without the transaction of a reservation.

Tokens, routes, bodies, threads, responses and metrics are those of POST /v1/reservations. The benchmark
starts `python -m ops.bench.framework_baseline` several times; all share the port of the settings.
"""

from datetime import UTC, datetime
from unittest.mock import patch

from api.reservations.desk import Desk
from api.reservations.reserving import Asked
from api.serving.process import listening, serve
from domain.reservations.model import Reservation, Status
from domain.stay import Stay
from ops.signals import end_with_supervisor
from runtime.logs import configure_logs
from runtime.settings import load_settings
from runtime.shutdown import stop_on_signals


async def answer(_: Desk, asked: Asked) -> tuple[Reservation, bool]:
    """Stand in for the transaction."""
    wish, now = asked.stay, datetime.now(UTC)
    stay = Stay(wish.check_in_date, wish.check_out_date)
    member_id = asked.member_id
    return Reservation(1, member_id, wish.room_id, stay, Status.PENDING, None, 1, now, now), False


def main() -> None:
    end_with_supervisor()
    settings = load_settings()
    configure_logs(settings, "framework-baseline")
    with (
        stop_on_signals(settings.shutdown_s) as stop,
        listening(settings, shared=True) as listener,
        patch("api.reservations.write.reserve_once", answer),
    ):
        serve(settings, listener, stop)


if __name__ == "__main__":
    main()
