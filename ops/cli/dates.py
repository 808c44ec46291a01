"""Days in the input and the output of commands."""

from datetime import date, datetime, timedelta

import click

DAY = "DAY"
WEEKDAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")

_LETTERS_MIN = 2  # fewer do not identify a weekday


class Day(click.ParamType[date]):
    """A day: 2027-01-10, today, tomorrow, +14 (days from today), or fri (the next one).

    With `behind`, the name of another day's parameter, a weekday is the next one after that day. That
    parameter must be eager, so that click reads it first.
    """

    name = DAY

    def __init__(self, *, behind: str | None = None) -> None:
        self._behind = behind

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> date:
        given = value.strip()
        first = ctx.params.get(self._behind) if ctx and self._behind else None
        after = first if isinstance(first, date) else today()
        try:
            return _relative(given.lower(), today(), after) or date.fromisoformat(given)
        except ValueError:
            self.fail(
                f"{given!r} is not a day; write 2027-01-10, today, tomorrow, +14 or fri", param, ctx
            )


def weekdays(words: str) -> tuple[str, ...]:
    """Read days of the week, separated by commas: SAT,SUN or saturday,sunday."""
    numbers = [weekday(word.strip()) for word in words.split(",")]
    if None in numbers:
        raise click.BadParameter(f"{words!r} are not days of the week; write, for example, SAT,SUN")
    return tuple(WEEKDAYS[number][:3] for number in numbers if number is not None)


arrives = click.option(
    "--check-in", type=Day(), required=True, is_eager=True, help="2027-01-10, tomorrow, +14, fri"
)
leaves = click.option(
    "--check-out",
    type=Day(behind="check_in"),
    required=True,
    help="The day of leaving; sun is the one after the check-in.",
)


def today() -> date:
    """Return the current day in the local time zone."""
    return datetime.now().astimezone().date()


def shown(day: date) -> str:
    """Format a day with its weekday, in English in every locale."""
    return f"{WEEKDAYS[day.weekday()][:3].title()} {day}"


def shown_instant(at: datetime) -> str:
    """Format an instant in the local time zone."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def weekday(word: str) -> int | None:
    """Return the number of the weekday that a word abbreviates; Monday is 0."""
    if len(word) < _LETTERS_MIN:
        return None
    return next((n for n, name in enumerate(WEEKDAYS) if name.startswith(word.upper())), None)


def _relative(word: str, today: date, after: date) -> date | None:
    if word in {"today", "tomorrow"}:
        return today + timedelta(days=word == "tomorrow")
    if word.startswith("+") and word[1:].isdecimal() and len(word) <= len("+3650"):
        return today + timedelta(days=int(word[1:]))
    if (number := weekday(word)) is not None:
        return after + timedelta(days=(number - after.weekday() - 1) % 7 + 1)
    return None
