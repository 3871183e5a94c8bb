"""What list-like kinds share: a changelog in which an added element costs its own bytes, however long the list is.

Rows of one key:
  a base row (empty part) with a run of elements, and
  delta rows (part = delta number, 8 bytes, big endian) with the elements added by one batch.
Value of each: MessagePack [head, elements, first delta, stamps]; what is missing at the end is 0 and empty.
  head         the kind's own; says, as of that row, which elements still live
  first delta  in a base row: deltas with lower numbers are in it already and wait to be deleted
  stamps       with a time to live, as [stamp, count, stamp, count, ...] over the elements; a kind whose keys have one stamp for all
               elements writes it with the count 0

Up to ``SHORT`` elements the base row is simply written anew.  A longer list gets a delta row per batch; when the rows hold more than
twice what lives, one base row replaces them all.  So each element is written about twice in its life, and a restore reads at most
about twice what lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from tables.changelog import NO_PART, Row, part_suffix
from tables.state import KeyedState, decode_row, decoder, encode, unencodable
from tables.ttl import Ttl

T = TypeVar("T")

SHORT = 16
#: bytes of a delta row's part
DELTA_SIZE = 8


class Items(list[T]):
    """A key's elements and what the changelog has of them.

    ``fresh``: elements added since the last freeze (``None``: nothing changed).  ``logged``: elements in the rows.
    ``deltas``: numbers of the delta rows, lowest first.  ``next_delta``: number of the next one.
    """

    __slots__ = ("deltas", "fresh", "logged", "next_delta")

    def __init__(self) -> None:
        super().__init__()
        self.fresh: list[T] | None = None
        self.logged = 0
        self.deltas: Sequence[int] = ()
        self.next_delta = 0


I = TypeVar("I", bound=Items[Any])  # noqa: E741


class SequenceState(KeyedState, Generic[T]):
    """Base of ListState and TimeSeriesState."""

    #: type of ``head``
    head_type: Any = int
    items_type: Callable[[], Any] = Items

    def __init__(self, of: type[T], *, ttl: Ttl | None = None, name: str | None = None) -> None:
        super().__init__(name=name, ttl=ttl)
        self.of = of
        row_type = msgspec.defstruct(
            "Row",
            [("head", self.head_type), ("elements", list[of]), ("first_delta", int, 0), ("stamps", list[int], [])],  # type: ignore[valid-type]
            array_like=True,
        )
        self._decode = decoder(row_type).decode

    def _open(self) -> None:
        self._rows: dict[str, Any] = {}
        self._dirty: dict[str, Any] = {}
        #: keys cleared since the last freeze, with the delta rows that they had
        self._dead: dict[str, list[int]] = {}

    def _check_rows(self) -> None:
        for raw in self._cold.all_keys():
            for part in self._cold.look(raw)[1] or ():
                if len(part) != DELTA_SIZE:
                    raise self._foreign(raw)
            return  # all rows of a state are of one kind

    # What a kind defines

    def _head(self, items: Any) -> Any:
        """What a row of these items must say besides the elements."""
        raise NotImplementedError

    def _restore(self, runs: list[Any]) -> Any:
        """Items from decoded rows, oldest first."""
        raise NotImplementedError

    def _base_row(self, items: Any) -> bytes:
        """A row with all elements."""
        if items.next_delta:
            return encode((self._head(items), items, items.next_delta))
        return encode((self._head(items), items))

    def _delta_row(self, items: Any, fresh: list[Any]) -> bytes:
        """A row with the newest elements."""
        return encode((self._head(items), fresh))

    # What both share

    def _new(self, key: str) -> Any:
        items = self._rows[key] = self.items_type()
        return items

    def _find(self, key: str) -> Any:
        """The key's items, ``None`` without any."""
        items = self._rows.get(key)
        if items is None and self._cold:
            items = self._thaw(key)
        return items

    def _thaw(self, key: str) -> Any:
        if key in self._dead:
            return None
        items = self._decoded(key, *self._cold.take(key.encode()))
        if items is not None:
            self._rows[key] = items
        return items

    def _decoded(self, key: str, whole: bytes | None, parts: Mapping[bytes, bytes] | None) -> Any:
        if whole is None and not parts:
            return None
        numbers = sorted(int.from_bytes(part, "big") for part in parts or ())
        runs = [] if whole is None else [decode_row(self._decode, whole, self.name, key)]
        first = runs[0].first_delta if runs else 0
        for number in numbers:
            if number >= first:
                runs.append(decode_row(self._decode, (parts or {})[number.to_bytes(8, "big")], self.name, key))
        if not runs:
            return None
        items = self._restore(runs)
        items.logged = sum(len(run.elements) for run in runs)
        items.deltas = numbers
        items.next_delta = max(first, numbers[-1] + 1 if numbers else 0)
        return items

    def clear(self) -> None:
        """Remove all elements of the current key."""
        self._clear(self._context.key)

    def _clear(self, key: str) -> None:
        items = self._find(key)
        if items is not None:
            del self._rows[key]
            self._dirty.pop(key, None)
            if items.logged:
                self._dead.setdefault(key, []).extend(items.deltas)

    def freeze(self, put: list[Row]) -> None:
        prefix = self._prefix
        for key, deltas in self._dead.items():
            raw = prefix + key.encode()
            put.append((raw + NO_PART, None))
            put.extend((raw + part_suffix(number.to_bytes(8, "big")), None) for number in deltas)
        self._dead.clear()
        key = ""
        try:
            for key, items in self._dirty.items():
                raw = prefix + key.encode()
                count = len(items)
                if items.deltas or count > SHORT:
                    self._freeze_long(raw, items, count, put)
                else:
                    put.append((raw + NO_PART, self._base_row(items)))
                    items.logged = count
                items.fresh = None
        except (TypeError, ValueError, OverflowError) as exc:
            raise unencodable(exc, self.name, key) from exc
        self._dirty.clear()

    def _freeze_long(self, raw: bytes, items: Any, count: int, put: list[Row]) -> None:
        fresh = items.fresh
        if items.logged and 0 < len(fresh) <= count and items.logged + len(fresh) <= 2 * count + SHORT:
            number = items.next_delta
            put.append((raw + part_suffix(number.to_bytes(8, "big")), self._delta_row(items, fresh)))
            items.next_delta = number + 1
            items.deltas = (*items.deltas, number)
            items.logged += len(fresh)
            return
        put.extend((raw + part_suffix(number.to_bytes(8, "big")), None) for number in items.deltas)
        items.deltas = ()
        items.logged = count
        put.append((raw + NO_PART, self._base_row(items)))

    def look(self, key: str) -> Any:
        items = self._looked(key)
        return list(items) if items else None

    def _looked(self, key: str) -> Any:
        items = self._rows.get(key)
        if items is None and key not in self._dead:
            items = self._decoded(key, *self._cold.look(key.encode()))
        return items

    def stored_keys(self) -> Iterator[str]:
        for key, items in self._rows.items():
            if items:
                yield key
        for raw in self._cold.all_keys():
            key = raw.decode()
            if key not in self._rows and key not in self._dead:
                yield key

    def stored_rows(self) -> Iterator[Row]:
        yield from self.live_rows(list(self._rows))
        for raw in self._cold.all_keys():
            key = raw.decode()
            if key not in self._rows and key not in self._dead:
                whole, parts = self._cold.look(raw)
                if whole is not None:
                    yield self._prefix + raw + NO_PART, whole
                for part, row in (parts or {}).items():
                    yield self._prefix + raw + part_suffix(part), row

    def is_clean(self) -> bool:
        return not self._dirty and not self._dead

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        rows = self._rows
        return [row for key in keys if (items := rows.get(key)) for row in self._rows_of(key, items)]

    def _rows_of(self, key: str, items: Any) -> Iterator[Row]:
        """A base row with everything; delta rows that exist are named, without their elements, so that they can be deleted later."""
        raw = self._prefix + key.encode()
        yield raw + NO_PART, self._base_row(items)
        if items.deltas:
            empty = self._delta_row(items, [])
            for number in items.deltas:
                yield raw + part_suffix(number.to_bytes(8, "big")), empty
