"""A user's last events, packed: what is asked of them at every event lies open, the rest waits as bytes.

An event is encoded once, when it is added, and is a row of its own: one more event costs the bytes of one, not those of all that are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from models.events import UserEvent
from models.texts import shared
from tables.changelog import Row, part_suffix
from tables.state import KeyedState, decode_row, decoder, encode
from tables.store import KeyRows

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(UserEvent).decode
#: of a row: which of its key's events it is, its type, and the whole event in MessagePack
_decode_row = decoder(tuple[int, str, bytes]).decode


class Kept:
    """The events of a key, oldest first: their types, and each whole in MessagePack.  ``after``: the number of the next one.

    Two lists and not one of pairs: what every event looks at lies close together, and equal types are one object.
    """

    __slots__ = ("after", "packed", "types")

    def __init__(self) -> None:
        self.after = 0
        self.types: list[str] = []
        self.packed: list[bytes] = []

    def events(self, of_type: str | None = None) -> list[UserEvent]:
        """All of them, or those of a type."""
        return [
            _decode(packed)
            for kind, packed in zip(self.types, self.packed, strict=True)
            if of_type is None or kind == of_type
        ]

    def rows(self, newest: int) -> Iterator[tuple[int, bytes]]:
        """Number and row of the newest ones."""
        first = max(0, len(self.types) - newest)
        number = self.after - len(self.types) + first
        for kind, packed in zip(self.types[first:], self.packed[first:], strict=True):
            yield number, encode((number, kind, packed))
            number += 1


class RecentEvents(KeyedState):
    """The last ``keep_last`` events of a key, oldest first.  Queries show a list of :class:`models.events.UserEvent`.

    A ring: event number n lies at place n modulo ``keep_last``.  Row: part = MessagePack of the place, value = the event.
    """

    kind = "list"

    def __init__(self, *, keep_last: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.keep_last = keep_last
        self._ends = [part_suffix(encode(place)) for place in range(keep_last)]

    def _open(self) -> None:
        #: an empty list stands here from its removal to the next freeze: what the store has of it is history
        self._rows: dict[str, Kept] = {}
        #: places that have changed
        self._dirty: dict[str, set[int]] = {}

    def add(self, event: UserEvent) -> Kept:
        """Append an event to the current key's; all that are kept, this one included: read them, do not change them."""
        key = self._context.key
        kept = self._rows.get(key)
        if kept is None:
            kept = (self._thaw(key) if self._cold else None) or self._rows.setdefault(key, Kept())
        kept.types.append(shared(event.event_type))
        kept.packed.append(_encode(event))
        if len(kept.types) > self.keep_last:
            del kept.types[0], kept.packed[0]
        place = kept.after % self.keep_last
        kept.after += 1
        dirty = self._dirty.get(key)
        if dirty is None:
            self._dirty[key] = {place}
        else:
            dirty.add(place)
        return kept

    def events(self) -> list[UserEvent]:
        """The current key's events."""
        kept = self._kept()
        return [] if kept is None else kept.events()

    def replace(self, events: Iterable[UserEvent]) -> None:
        """Keep these events, and no others, of the current key."""
        self.clear()
        for event in events:
            self.add(event)

    def clear(self) -> None:
        """Keep none."""
        kept = self._kept()
        if kept is not None and kept.types:
            key = self._context.key
            first = kept.after - len(kept.types)
            self._dirty.setdefault(key, set()).update(n % self.keep_last for n in range(first, kept.after))
            self._rows[key] = Kept()

    def _kept(self) -> Kept | None:
        key = self._context.key
        kept = self._rows.get(key)
        if kept is None and self._cold:
            kept = self._thaw(key)
        return kept

    def _thaw(self, key: str) -> Kept | None:
        kept = self._decoded(self._cold.take(key.encode()), key)
        if kept is not None:
            self._rows[key] = kept
        return kept

    def _decoded(self, rows: KeyRows, key: str) -> Kept | None:
        events = sorted(decode_row(_decode_row, row, self.name, key) for row in (rows[1] or {}).values())
        if not events:
            return None
        kept = Kept()
        for number, kind, packed in events:
            kept.types.append(shared(kind))
            kept.packed.append(packed)
            kept.after = number + 1
        return kept

    def freeze(self, put: list[Row]) -> None:
        rows, prefix, ends, last = self._rows, self._prefix, self._ends, self.keep_last
        for key, places in self._dirty.items():
            start = prefix + key.encode()
            kept = rows[key]
            for number, row in kept.rows(len(places)):
                put.append((start + ends[number % last], row))
            if len(kept.types) < len(places):  # it was cleared meanwhile
                gone = places.difference(n % last for n in range(kept.after - len(kept.types), kept.after))
                put.extend([(start + ends[place], None) for place in gone])
                if not kept.types:
                    del rows[key]
        self._dirty.clear()

    def look(self, key: str) -> list[UserEvent] | None:
        kept = self._rows.get(key)
        if kept is None:
            kept = self._decoded(self._cold.look(key.encode()), key)
        return None if kept is None else kept.events() or None

    def stored_keys(self) -> Iterator[str]:
        for key, kept in self._rows.items():
            if kept.types:
                yield key
        for raw in self._cold.all_keys():
            key = raw.decode()
            if key not in self._rows:
                yield key

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        prefix, ends, last = self._prefix, self._ends, self.keep_last
        return [
            (prefix + key.encode() + ends[number % last], row)
            for key in keys
            if (kept := self._rows.get(key)) is not None
            for number, row in kept.rows(last)
        ]

    def stored_rows(self) -> Iterator[Row]:
        yield from self.live_rows(list(self._rows))
        for raw in self._cold.all_keys():
            if raw.decode() not in self._rows:
                for part, row in (self._cold.look(raw)[1] or {}).items():
                    yield self._prefix + raw + part_suffix(part), row
