"""Times as a person types them: ISO 8601, or how long ago."""

import re
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Instant(click.ParamType[datetime | timedelta]):
    """A point of time, in UTC unless it says otherwise; or a duration before a now of the caller's."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | timedelta:
        given = str(value)
        if match := re.fullmatch(r"(\d{1,6})([smhd])", given):
            return timedelta(**{_UNITS[match[2]]: int(match[1])})
        try:
            instant = datetime.fromisoformat(given)
        except ValueError:
            self.fail(f"{given!r} is neither ISO 8601 nor like 90s, 30m, 2h or 7d", param, ctx)
        return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
