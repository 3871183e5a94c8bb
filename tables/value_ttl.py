"""A time to live for kinds with one value per key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from models.time import Millis
from tables.changelog import NO_PART, Row
from tables.expiry import Expiring
from tables.state import encode, unencodable
from tables.ttl import UNSTAMPED, stamp_of, stamped
from tables.value import ValueState

T = TypeVar("T")


class Stamped(msgspec.Struct, gc=False):
    """A value in memory.  ``logged``: the stamp that its row has."""

    value: Any
    stamp: Millis
    logged: Millis


class ValueWithTtl(Expiring, ValueState[T]):
    """Added in front of a kind by ``bind``.  Row: C1, stamp, value (see ``tables.ttl``)."""

    def value(self) -> T | None:
        context = self._context
        key = context.key
        if self._per_access:
            self._visit(self._per_access)
        row = self._rows.get(key)
        if row is None and self._cold:
            row = self._thaw(key)
        if row is not None:
            # Inline: this is the read of every record.
            if (context.watermark_ms if self._event_time else context.processing_time_ms) < row.stamp + self._ttl_ms:
                if self._touching and self._touch(row):
                    self._dirty[key] = None
                found: T = row.value
                return found
            if self._visible:
                # Reading does not bring the dead back to life.
                found = row.value
                return found
            self._remove(key)
        return None if self.default is None else self.default()

    def update(self, value: T) -> None:
        if value is None:
            self.clear()
            return
        if type(value) is not self._exact:
            self._fit.check(value, self.name)
        context = self._context
        key = context.key
        if self._per_access:
            self._visit(self._per_access)
        now = self._now() if self._event_time else context.processing_time_ms
        self._rows[key] = Stamped(value, now, now)
        self._dirty[key] = None

    def _remove(self, key: str) -> None:
        del self._rows[key]
        self._dirty[key] = None

    def _decoded(self, row: bytes, key: str) -> Stamped:
        stamp = stamp_of(row)
        if stamp == UNSTAMPED:
            stamp = self._now()
            return Stamped(super()._decoded(row, key), stamp, UNSTAMPED)
        return Stamped(super()._decoded(row, key), stamp, stamp)

    def _thaw(self, key: str) -> Any:
        row = super()._thaw(key)
        if row is not None and row.logged == UNSTAMPED:
            self._dirty[key] = None  # its life begins now: that must be known after a restart, too
        return row

    def _encoded(self, value: Any) -> bytes:
        return stamped(value.stamp, encode(value.value))

    def freeze(self, put: list[Row]) -> None:
        rows, prefix, cold = self._rows, self._prefix, self._cold
        stored = bool(cold)  # asked once: nothing gets into it here, and asking costs as much as a small row
        key = ""
        try:
            for key in self._dirty:
                row = rows.get(key)
                raw = key.encode()
                if stored:
                    cold.drop(raw)
                if row is None:
                    put.append((prefix + raw + NO_PART, None))
                else:
                    row.logged = row.stamp
                    put.append((prefix + raw + NO_PART, stamped(row.stamp, encode(row.value))))
        except (TypeError, ValueError, OverflowError) as exc:
            raise unencodable(exc, self.name, key) from exc
        self._dirty.clear()

    def _looked(self, key: str) -> Any:
        row = super()._looked(key)
        if row is None or (self._expired(row.stamp) and not self._visible):
            return None
        return row.value

    def stored_keys(self) -> Iterator[str]:
        return (key for key in super().stored_keys() if self._visible or not self._expired(self._stamp(key)))

    def _stamp(self, key: str) -> Millis:
        """The stamp of a key that has a value, without decoding the value."""
        row = self._rows.get(key)
        if row is not None:
            stamp: Millis = row.stamp
            return stamp
        stored = self._cold.look(key.encode())[0]
        logged = UNSTAMPED if stored is None else stamp_of(stored)
        return self._now() if logged == UNSTAMPED else logged

    def stored_rows(self) -> Iterator[Row]:
        # Snapshots leave out what expired, whatever the clean-up.
        return (item for item in super().stored_rows() if not self._expired_row(item[1]))

    def _check(self, key: str) -> None:
        row = self._rows.get(key)
        if row is None:
            if key in self._dirty:
                return
            raw = key.encode()
            stored = self._cold.look(raw)[0]
            if stored is None:
                return
            stamp = stamp_of(stored)
            if stamp == UNSTAMPED:
                self._thaw(key)
            elif self._expired(stamp):
                self._cold.drop(raw)
                self._dirty[key] = None
        elif self._expired(row.stamp):
            self._remove(key)
