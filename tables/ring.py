"""RingState: the last few elements of a key, packed; what is asked of them at every step lies open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec

from models.errors import StateError
from models.texts import shared
from tables.changelog import Row, part_suffix
from tables.state import PartedState, decode_row, decoder, encode, unencodable
from tables.store import KeyRows

T = TypeVar("T")

_decode_place = msgspec.msgpack.Decoder(int).decode


class Ring(Generic[T]):
    """The elements of a key, oldest first: one field of each, and each as its row.  ``after``: the number of the next one.

    ``fresh``: how many of the newest are in no row yet.  ``gone``: places of those that were removed while they were in rows.
    """

    __slots__ = ("after", "column", "fresh", "gone", "rows")

    def __init__(self) -> None:
        self.after = 0
        self.fresh = 0
        self.column: list[Any] = []
        self.rows: list[bytes] = []
        self.gone: set[int] | None = None


class RingState(PartedState, Generic[T]):
    """The last ``keep_last`` elements of a key, oldest first; an element more costs its own bytes, in memory and in the changelog.

    Elements are structs.  ``column`` names the field of theirs, a text, that can be asked for without unpacking them.

    A ring: element number n lies at place n modulo ``keep_last``.  Row: part = MessagePack of the place, value = [n, element].  With another
    ``keep_last`` elements move: a key's are written anew when it is first read.
    """

    kind = "list"

    def __init__(self, of: type[T], *, keep_last: int, column: str, name: str | None = None) -> None:
        super().__init__(name=name)
        if keep_last < 1:
            raise StateError(f"keep_last={keep_last}: a ring keeps at least one element")
        if column not in (known := getattr(of, "__struct_fields__", ())):
            raise StateError(f"column={column!r}: {of.__name__} has no such field, only {', '.join(known)}")
        self.of = of
        self.keep_last = keep_last
        self._column_of = attrgetter(column)
        self._decode = decoder(tuple[int, of]).decode  # type: ignore[valid-type]
        self._ends = [part_suffix(encode(place)) for place in range(keep_last)]

    def _open(self) -> None:
        #: an empty ring stands here from its removal to the next freeze: what the store has of it is history
        self._rows: dict[str, Ring[T]] = {}
        self._dirty: dict[str, Ring[T]] = {}

    def add(self, element: T) -> list[Any]:
        """Append an element to the current key's; the column of all that are kept, this one included: read it, do not change it."""
        key = self._context.key
        ring = self._rows.get(key)
        if ring is None:
            ring = (self._thaw(key) if self._cold else None) or self._rows.setdefault(key, Ring())
        number, column = ring.after, ring.column
        shown = shared(self._column_of(element))
        try:
            ring.rows.append(encode((number, element)))
        except (TypeError, ValueError, OverflowError) as exc:
            raise unencodable(exc, self.name, key) from exc
        column.append(shown)
        ring.after = number + 1
        if len(column) > self.keep_last:
            del column[0], ring.rows[0]
        if not ring.fresh:
            self._dirty[key] = ring
        ring.fresh += 1
        return column

    def get(self) -> list[T]:
        """The current key's elements."""
        ring = self._ring()
        return [] if ring is None else self._elements(ring)

    def where(self, value: Any) -> list[T]:
        """Those of the current key's elements whose column has this value."""
        ring = self._ring()
        if ring is None or value not in ring.column:
            return []
        return [self._decode(row)[1] for one, row in zip(ring.column, ring.rows, strict=True) if one == value]

    def update(self, elements: Iterable[T]) -> None:
        """Keep these elements, and no others, of the current key."""
        self.clear()
        for element in elements:
            self.add(element)

    def clear(self) -> None:
        """Keep none."""
        ring = self._ring()
        if ring is not None and ring.rows:
            key = self._context.key
            first = ring.after - len(ring.rows)
            new = self._rows[key] = self._dirty[key] = Ring()
            new.gone = {number % self.keep_last for number in range(first, ring.after)}
            if ring.gone:
                new.gone |= ring.gone

    def _ring(self) -> Ring[T] | None:
        key = self._context.key
        ring = self._rows.get(key)
        if ring is None and self._cold:
            ring = self._thaw(key)
        return ring

    def _elements(self, ring: Ring[T]) -> list[T]:
        return [self._decode(row)[1] for row in ring.rows]

    def _thaw(self, key: str) -> Ring[T] | None:
        ring = self._decoded(self._cold.take(key.encode()), key)
        if ring is not None:
            self._rows[key] = ring
            if ring.gone:
                ring.fresh = len(ring.rows)
                self._dirty[key] = ring
        return ring

    def _decoded(self, stored: KeyRows, key: str) -> Ring[T] | None:
        last = self.keep_last
        rows = sorted(
            (
                (*decode_row(self._decode, row, self.name, key), row, _decode_place(part))
                for part, row in (stored[1] or {}).items()
            ),
            key=lambda found: found[0],
        )
        if not rows:
            return None
        ring: Ring[T] = Ring()
        ring.after = rows[-1][0] + 1
        for _, element, row, _ in rows[-last:]:
            ring.column.append(shared(self._column_of(element)))
            ring.rows.append(row)
        if len(rows) > last or any(place != number % last for number, _, _, place in rows):
            ring.gone = {place for _, _, _, place in rows}  # written with another ``keep_last``
        return ring

    def freeze(self, put: list[Row]) -> None:
        prefix, ends, last, append = self._prefix, self._ends, self.keep_last, put.append
        for key, ring in self._dirty.items():
            start = prefix + key.encode()
            rows = ring.rows
            kept = len(rows)
            number = ring.after - kept
            if ring.gone is not None:
                for place in ring.gone.difference(n % last for n in range(number, ring.after)):
                    append((start + (ends[place] if place < last else part_suffix(encode(place))), None))
                ring.gone = None
                if not kept:
                    del self._rows[key]
            first = max(0, kept - ring.fresh)
            number += first
            for row in rows[first:] if first else rows:
                append((start + ends[number % last], row))
                number += 1
            ring.fresh = 0
        self._dirty.clear()

    def look(self, key: str) -> list[T] | None:
        ring = self._rows.get(key)
        if ring is None:
            ring = self._decoded(self._cold.look(key.encode()), key)
        return None if ring is None else self._elements(ring) or None

    def stored_keys(self) -> Iterator[str]:
        for key, ring in self._rows.items():
            if ring.rows:
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
            if (ring := self._rows.get(key)) is not None
            for number, row in enumerate(ring.rows, ring.after - len(ring.rows))
        ]
