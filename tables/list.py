"""ListState: a list per key, in the order of adding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from models.errors import StateError
from tables.sequence import Items, SequenceState

T = TypeVar("T")


class ListState(SequenceState[T]):
    """A list per key.  ``keep_last`` bounds it: the oldest element goes when one more is added.

    Row head: number of elements that live, counted from the newest.
    """

    kind = "list"
    head_type = int

    def __init__(self, of: type[T], *, keep_last: int | None = None, name: str | None = None) -> None:
        super().__init__(of, name=name)
        if keep_last is not None and keep_last < 1:
            raise StateError(f"keep_last={keep_last}: a list keeps at least one element")
        self.keep_last = keep_last
        self._last = keep_last or 1 << 62

    def add(self, item: T) -> None:
        """Append an element to the current key's list."""
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

    def get(self) -> list[T]:
        """The current key's list, live: read it, change it only through this state."""
        found: list[T] | None = self._find(self._context.key)
        return [] if found is None else found

    def update(self, items: Iterable[T]) -> None:
        """Replace the current key's list."""
        new = list(items)
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
        items: Items[T] = Items()
        for run in runs:
            items.extend(run.elements)
        del items[: len(items) - runs[-1].head]
        return items
