"""ListState: a list per key, in the order of adding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from models.errors import StateError
from models.time import Millis, millis
from tables.fit import fit_of
from tables.sequence import Items, SequenceState
from tables.state import KeyedState
from tables.ttl import Ttl

T = TypeVar("T")


class ListState(SequenceState[T]):
    """A list per key.

    ``keep_last`` bounds it: the oldest element goes when one more is added.  ``keep_for`` bounds it, too: when an element is added, those
    before it go, oldest first, as long as they are ``keep_for`` or more older than it.  ``time`` gives an element's event time in ms;
    without it that is the time of the record (or timer) in hand when the element is added.

    Row head: number of elements that live, counted from the newest.
    """

    kind = "list"
    head_type = int
    #: the class that adds ``keep_for`` without ``time``
    by_record_time: ClassVar[type[KeyedState] | None] = None

    def __init__(
        self,
        of: type[T],
        *,
        keep_last: int | None = None,
        keep_for: timedelta | None = None,
        time: Callable[[T], Millis] | None = None,
        ttl: Ttl | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(of, ttl=ttl, name=name)
        self._fit = fit_of(of)
        self._exact = self._fit.exact
        if keep_last is not None and (not isinstance(keep_last, int) or keep_last < 1):
            raise StateError(f"keep_last={keep_last!r}: a whole number of elements; a list keeps at least one element")
        if keep_for is None and time is not None:
            raise StateError("time= without keep_for=: say how long elements stay")
        if keep_for is not None and time is None and ttl is not None:
            raise StateError(
                "keep_for= beside ttl= needs time=: an element's stamp in the changelog is that of the ttl"
            )
        if keep_for is not None and millis(keep_for) < 1:
            raise StateError(f"keep_for={keep_for}: an element stays for a millisecond at least")
        self.keep_last = keep_last
        self.keep_for = keep_for
        self._time = time
        self._last = keep_last or 1 << 62
        self._keep_ms = 0 if keep_for is None else millis(keep_for)

    def _added(self) -> type[KeyedState] | None:
        if self.keep_for is not None and self._time is None:
            return self.by_record_time
        return super()._added()

    def _open(self) -> None:
        super()._open()
        if self._time is not None:
            # Only this handle pays for looking at times.
            self.add = self._add_timed  # type: ignore[method-assign]

    def add(self, item: T) -> None:
        """Append an element to the current key's list."""
        if type(item) is not self._exact:
            self._fit.check(item, self.name)
        key = self._context.key
        items = self._rows.get(key)
        if items is None:
            items = (self._thaw(key) if self._cold else None) or self._new(key)
        items.append(item)
        if len(items) > self._last:
            del items[0]
        fresh = items.fresh
        if fresh is None:
            items.fresh = [item]
            self._dirty[key] = items
        else:
            fresh.append(item)

    def add_all(self, items: Iterable[T]) -> None:
        """Append several elements."""
        for item in self._fitting(items):
            self.add(item)

    def _fitting(self, items: Iterable[T]) -> list[T]:
        """The items, which may be this very list, once all of them are known to fit: none is added where one does not."""
        new = list(items)
        for item in new:
            if type(item) is not self._exact:
                self._fit.check(item, self.name)
        return new

    def _add_timed(self, item: T) -> None:
        type(self).add(self, item)
        time = self._time
        if time is None:
            raise StateError(f"state {self.name!r} has no time=")
        items = self._rows[self._context.key]
        low = time(item) - self._keep_ms
        gone = 0
        while time(items[gone]) <= low:  # ends at the element just added
            gone += 1
        if gone:
            self._drop_oldest(items, gone)

    def _drop_oldest(self, items: Items[T], count: int) -> None:
        del items[:count]

    def get(self) -> list[T]:
        """The current key's list, live: read it, change it only through this state."""
        found: list[T] | None = self._find(self._context.key)
        return [] if found is None else found

    def update(self, items: Iterable[T]) -> None:
        """Replace the current key's list."""
        new = self._fitting(items)
        self.clear()
        for item in new:
            self.add(item)

    def __iter__(self) -> Iterator[T]:
        return iter(self.get())

    def __len__(self) -> int:
        return len(self.get())

    def _head(self, items: Items[T]) -> int:
        return len(items)

    def _restore(self, runs: list[Any]) -> Items[T]:
        items: Items[T] = self.items_type()
        for run in runs:
            items.extend(run.elements)
        del items[: len(items) - self._living(runs)]
        return items

    def _living(self, runs: list[Any]) -> int:
        """How many of the newest elements of the rows still live: fewer where ``keep_last`` was larger when they were written."""
        head: int = runs[-1].head
        return min(head, self._last)
