"""A time to live for each element of a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from tables.changelog import Row, split_row_key
from tables.expiry import Expiring
from tables.list_times import StampedItems, StampedList

T = TypeVar("T")


class ListWithTtl(Expiring, StampedList[T]):
    """Added in front of ``ListState`` by ``bind``.  Rows carry the stamps of their elements (see ``tables.sequence``)."""

    def add(self, item: T) -> None:
        if type(item) is not self._exact:
            self._fit.check(item, self.name)
        context = self._context
        key = context.key
        if self._per_access:
            self._visit(self._per_access)
        # Inline: this is the write of every record.
        event_time = self._event_time
        items = self._rows.get(key)
        if (
            items is None
            or (context.watermark_ms if event_time else context.processing_time_ms) >= items.oldest + self._ttl_ms
        ):
            items = self._alive(key) or self._new(key)
        now = self._now() if event_time else context.processing_time_ms
        items.append(item)
        items.stamps.append(now)
        if now < items.oldest:
            items.oldest = now
        if len(items) > self._last:
            del items[0]
            stamps = items.stamps
            del stamps[0]
            # Stamps of processing time only grow; others may be in any order.
            items.oldest = min(stamps) if event_time else stamps[0]
        fresh = items.fresh
        if fresh is None:
            items.fresh = [item]
            self._dirty[key] = items
        else:
            fresh.append(item)

    def get(self) -> list[T]:
        key = self._context.key
        if self._per_access:
            self._visit(self._per_access)
        items = self._alive(key)
        if items is None:
            return []
        if self._touching:
            self._renew(key, items)
        return items

    def _alive(self, key: str) -> StampedItems[T] | None:
        """The key's items without the expired ones, unless they may be seen."""
        items: StampedItems[T] | None = self._find(key)
        if items is not None and not self._visible and self._expired(items.eldest()):
            return self._expire(key, items)
        return items

    def _expire(self, key: str, items: StampedItems[T]) -> StampedItems[T] | None:
        """Drop the expired elements; without any left the key is gone."""
        dead = [self._expired(stamp) for stamp in items.effective()]
        if all(dead):
            self._clear(key)
            return None
        first = dead.index(False)
        self._drop_oldest(items, first)
        if any(dead[first:]):
            living = [at for at, gone in enumerate(dead[first:]) if not gone]
            items[:], items.stamps = [items[at] for at in living], [items.stamps[at] for at in living]
            items.oldest = min(items.stamps)
            items.rewrite = True  # rows can say that a run's beginning is gone, not that its middle is
        return items

    def _renew(self, key: str, items: StampedItems[T]) -> None:
        """Reading renews all elements that it shows, but not those that are dead and only still visible."""
        if self._expired(items.eldest()):
            over = self._clock() - self._ttl_ms
            if items.renewed <= over:
                items.dead = over
            if all(stamp <= items.dead for stamp in items.stamps):
                return
        items.renewed = max(items.renewed, self._now())
        if items.logged and items.renewed - items.logged_oldest >= self._step_ms:
            self._rewrite(key, items)

    def _check(self, key: str) -> None:
        items = self._rows.get(key)
        if items is None:
            if key in self._dead:
                return
            items = self._decoded(key, *self._cold.look(key.encode()))
            if items is None or not (items.rewrite or all(self._expired(stamp) for stamp in items.stamps)):
                return
            items = self._thaw(key)
        if self._expired(items.eldest()):
            self._expire(key, items)

    # -- looking

    def look(self, key: str) -> Any:
        items = self._looked(key)
        if items is None or self._visible:
            return list(items) if items else None
        living = [item for item, stamp in zip(items, items.effective(), strict=True) if not self._expired(stamp)]
        return living or None

    def stored_keys(self) -> Iterator[str]:
        return (key for key in super().stored_keys() if self.look(key) is not None)

    def stored_rows(self) -> Iterator[Row]:
        # A key of which everything expired is left out; of the others the stamps say what is gone.
        living = set(self.stored_keys())
        for row, value in super().stored_rows():
            if _user_key(row) in living:
                yield row, value

    def _decoded(self, key: str, whole: bytes | None, parts: Mapping[bytes, bytes] | None) -> Any:
        items = super()._decoded(key, whole, parts)
        return items if items else None


def _user_key(row: bytes) -> str:
    return split_row_key(row)[1].decode()
