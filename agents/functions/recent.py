"""A user's last events, packed: what is asked of them at every event lies open, the rest waits as bytes.

An event is encoded once, when it is added, not again with each row of the list that it is in; and a list takes a third of the memory.
"""

from __future__ import annotations

import msgspec

from models.events import UserEvent
from tables import ListState


class RecentEvent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An event's type, and the whole event in MessagePack."""

    event_type: str
    packed: bytes

    def unpack(self) -> UserEvent:
        return _decode(self.packed)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(UserEvent).decode


def pack(event: UserEvent) -> RecentEvent:
    return RecentEvent(event.event_type, _encode(event))


class RecentEvents(ListState[RecentEvent]):
    """The last ``keep_last`` events of a key.  Queries show them as :class:`models.events.UserEvent`."""

    def __init__(self, *, keep_last: int, name: str | None = None) -> None:
        super().__init__(RecentEvent, keep_last=keep_last, name=name)

    def look(self, key: str) -> list[UserEvent] | None:
        items = super().look(key)
        return None if items is None else [item.unpack() for item in items]
