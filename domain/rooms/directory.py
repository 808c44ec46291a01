"""The rooms by id and name. Nothing here begins, commits or rolls back."""

from dataclasses import dataclass

from sqlalchemy import Connection, select, text

from domain.rooms.tables import room


@dataclass(frozen=True, slots=True)
class Room:
    """A room type; its name is optional."""

    id: int
    name: str | None


_ROOMS = select(room.c.id, room.c.name)

NAME_ROOM = text("""
    INSERT INTO rooms.room (id, name) VALUES (:room_id, :name)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name
""")


def get(connection: Connection, room_id: int) -> Room | None:
    row = connection.execute(_ROOMS.where(room.c.id == room_id)).one_or_none()
    return Room(*row) if row else None


def list_rooms(connection: Connection, *, after: int, limit: int) -> list[Room]:
    """Read the `limit` rooms after this id."""
    chosen = _ROOMS.where(room.c.id > after).order_by(room.c.id).limit(limit)
    return [Room(*row) for row in connection.execute(chosen)]


def name_room(connection: Connection, room_id: int, name: str) -> Room:
    """Name a room; a new one is inserted, without open nights."""
    connection.execute(NAME_ROOM, {"room_id": room_id, "name": name})
    return Room(room_id, name)
