"""A time to live for a key's series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from tables.changelog import Row, split_row_key
from tables.expiry import Expiring
from tables.sequence import SHORT
from tables.series import PlainSeries as Series
from tables.series import compiled_adding
from tables.state import encode
from tables.timeseries import ANY, OF_FOUR, TimeSeriesState
from tables.ttl import UNSTAMPED

T = TypeVar("T")


class TimeSeriesWithTtl(Expiring, TimeSeriesState[T]):
    """Added in front of ``TimeSeriesState`` by ``bind``.  Rows carry one stamp for all elements (see ``tables.sequence``)."""

    def _open(self) -> None:
        super()._open()
        if type(self).add is TimeSeriesWithTtl.add:
            self._use(
                compiled_adding(
                    self,
                    SHORT,
                    ANY,
                    ttl_ms=self._ttl_ms,
                    event_time=self._event_time,
                    per_access=self._per_access,
                )
            )

    def add(self, item: T) -> Series[T]:
        context = self._context
        key = context.key
        if self._per_access:
            self._visit(self._per_access)
        # Inline: this is the write of every record.
        event_time = self._event_time
        series = self._rows.get(key)
        if (
            series is None
            or (context.watermark_ms if event_time else context.processing_time_ms) >= series.stamp + self._ttl_ms
        ):
            self._alive(key)
        series = super().add(item)
        series.stamp = self._now() if event_time else context.processing_time_ms
        return series

    def get(self) -> Series[T] | None:
        key = self._context.key
        if self._per_access:
            self._visit(self._per_access)
        series = self._alive(key)
        if series is not None and self._touching and not self._expired(series.stamp):
            series.stamp = max(series.stamp, self._now())
            if series.stamp - series.logged_stamp >= self._step_ms:
                self._touched(key, series)
        return series

    def _alive(self, key: str) -> Series[T] | None:
        series: Series[T] | None = self._find(key)
        if series is not None and not self._visible and self._expired(series.stamp):
            self._clear(key)
            return None
        return series

    def _touched(self, key: str, series: Series[T]) -> None:
        """Have the stamp written though no element is new."""
        if series.fresh is None:
            series.fresh = []
            self._dirty[key] = series

    def _base_row(self, items: Any) -> bytes:
        packed: bytes = items.packed()
        return OF_FOUR + packed + encode(items.next_delta) + encode((items.stamp, 0))

    def _delta_row(self, items: Any, fresh: list[Any]) -> bytes:
        return encode((items.head(), fresh, 0, (items.stamp, 0)))

    def freeze(self, put: list[Row]) -> None:
        dirty = list(self._dirty.values())
        super().freeze(put)
        for series in dirty:
            series.logged_stamp = series.stamp

    def _restore(self, runs: list[Any]) -> Series[T]:
        series: Any = super()._restore(runs)
        stamps = runs[-1].stamps
        if stamps:
            series.stamp = series.logged_stamp = stamps[0]
        else:
            series.stamp = self._now()  # its life begins now
        return series  # type: ignore[no-any-return]

    def _thaw(self, key: str) -> Any:
        series = super()._thaw(key)
        if series is not None and series.logged_stamp == UNSTAMPED:
            self._touched(key, series)
        return series

    def _check(self, key: str) -> None:
        series = self._rows.get(key)
        if series is None:
            if key in self._dead:
                return
            series = self._decoded(key, *self._cold.look(key.encode()))
            if series is None or not (series.logged_stamp == UNSTAMPED or self._expired(series.stamp)):
                return
            series = self._thaw(key)
        if self._expired(series.stamp):
            self._clear(key)

    def look(self, key: str) -> Any:
        series = self._looked(key)
        if not series or (self._expired(series.stamp) and not self._visible):
            return None
        return list(series)

    def stored_keys(self) -> Iterator[str]:
        return (key for key in super().stored_keys() if self.look(key) is not None)

    def stored_rows(self) -> Iterator[Row]:
        living = set(self.stored_keys())
        return ((row, value) for row, value in super().stored_rows() if split_row_key(row)[1].decode() in living)
