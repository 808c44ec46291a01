"""The window of an audit: which messages are judged, by the instant at which they were created."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Window:
    """From `since` until before `until`; None is no bound.

    A message is created, for this, when its writer's transaction began, on the database's clock.
    """

    since: datetime | None = None
    until: datetime | None = None
