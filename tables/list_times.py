"""Lists whose elements carry a time in the changelog: stamps of a time to live, or the times of the records that brought them."""

from __future__ import annotations

from itertools import groupby
from typing import Any, TypeVar

from models.time import Millis
from tables.changelog import Row
from tables.list import ListState
from tables.sequence import Items
from tables.state import encode
from tables.ttl import UNSTAMPED

T = TypeVar("T")

_FAR: Millis = 1 << 62


class StampedItems(Items[T]):
    """Elements with their stamps.

    ``stamps``: one per element.  ``oldest``: the smallest of them.  ``renewed``: a later stamp that elements got by being read, all but those
    whose own is ``dead`` or before: they had expired by then and were only still visible.
    ``logged``'s companion ``logged_oldest``: the smallest stamp in the rows.  ``rewrite``: the rows need replacing as a whole.
    """

    __slots__ = ("dead", "logged_oldest", "oldest", "renewed", "rewrite", "stamps")

    def __init__(self) -> None:
        super().__init__()
        self.stamps: list[Millis] = []
        self.oldest: Millis = _FAR
        self.renewed: Millis = UNSTAMPED
        self.dead: Millis = UNSTAMPED
        self.logged_oldest: Millis = _FAR
        self.rewrite = False

    def effective(self) -> list[Millis]:
        """When each element was renewed last."""
        renewed, dead = self.renewed, self.dead
        if renewed <= self.oldest:
            return self.stamps
        return [stamp if stamp <= dead else max(stamp, renewed) for stamp in self.stamps]

    def eldest(self) -> Millis:
        """When the element was renewed that expires first."""
        return self.oldest if self.oldest <= self.dead else max(self.oldest, self.renewed)


class StampedList(ListState[T]):
    """What both share: rows carry the stamps of their elements (see ``tables.sequence``)."""

    items_type = StampedItems

    def _now(self) -> Millis:
        """The stamp of what is written now."""
        return self._context.timestamp_ms

    def _drop_oldest(self, items: Any, count: int) -> None:
        del items[:count]
        del items.stamps[:count]
        items.oldest = min(items.stamps, default=_FAR)

    def _rewrite(self, key: str, items: StampedItems[T]) -> None:
        items.rewrite = True
        if items.fresh is None:
            items.fresh = []
            self._dirty[key] = items

    def _base_row(self, items: Any) -> bytes:
        return encode((self._head(items), items, items.next_delta, _runs(items.effective())))

    def _delta_row(self, items: Any, fresh: list[Any]) -> bytes:
        stamps = items.effective()[len(items) - len(fresh) :]
        return encode((self._head(items), fresh, 0, _runs(stamps)))

    def _freeze_long(self, raw: bytes, items: Any, count: int, put: list[Row]) -> None:
        if items.rewrite:
            items.fresh = []
        super()._freeze_long(raw, items, count, put)

    def freeze(self, put: list[Row]) -> None:
        dirty = list(self._dirty.values())
        super().freeze(put)
        for items in dirty:
            items.rewrite = False
            items.logged_oldest = max(items.oldest, items.renewed)

    def _restore(self, runs: list[Any]) -> Items[T]:
        items: StampedItems[T] = StampedItems()
        now = self._now()
        for run in runs:
            items.extend(run.elements)
            stamps = [
                stamp for stamp, count in zip(run.stamps[::2], run.stamps[1::2], strict=True) for _ in range(count)
            ]
            if len(stamps) != len(run.elements):
                # Written without a time to live: their life begins now, and that must be known after a restart, too.
                stamps = [now] * len(run.elements)
                items.rewrite = bool(run.elements) or items.rewrite
            items.stamps.extend(stamps)
        self._drop_oldest(items, len(items) - self._living(runs))
        items.logged_oldest = items.oldest
        return items

    def _thaw(self, key: str) -> Any:
        items = super()._thaw(key)
        if items is not None and items.rewrite:
            self._rewrite(key, items)
        return items


class ListByRecordTime(StampedList[T]):
    """Added in front of ``ListState`` by ``bind`` for ``keep_for`` without ``time``."""

    def add(self, item: T) -> None:
        super().add(item)
        items: Any = self._rows[self._context.key]
        stamps, now = items.stamps, self._now()
        del stamps[: len(stamps) + 1 - len(items)]  # what ``keep_last`` dropped
        stamps.append(now)
        low = now - self._keep_ms
        gone = 0
        while stamps[gone] <= low:  # ends at the element just added
            gone += 1
        if gone:
            del items[:gone], stamps[:gone]


def _runs(stamps: list[Millis]) -> list[int]:
    """Stamps as [stamp, count, stamp, count, ...]."""
    if not stamps:
        return []
    if stamps.count(stamps[0]) == len(stamps):  # of one batch, as nearly always in processing time
        return [stamps[0], len(stamps)]
    runs: list[int] = []
    for stamp, equal in groupby(stamps):
        runs += (stamp, sum(1 for _ in equal))
    return runs
