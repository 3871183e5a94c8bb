"""A time to live for each entry of a map."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, TypeVar, overload

from tables.changelog import Row
from tables.expiry import Expiring
from tables.map import MapState
from tables.state import decode_row, encode
from tables.ttl import UNSTAMPED, stamp_of, stamped
from tables.value_ttl import Stamped

K = TypeVar("K")
V = TypeVar("V")


class MapWithTtl(Expiring, MapState[K, V]):
    """Added in front of ``MapState`` by ``bind``.  Each entry's row has a stamp of its own: C1, stamp, value (see ``tables.ttl``)."""

    @overload
    def get(self, key: K) -> V | None: ...

    @overload
    def get(self, key: K, default: V) -> V: ...

    def get(self, key: K, default: V | None = None) -> V | None:
        row = self._found(key)
        if row is None:
            return default
        value: V = row.value
        return value

    def _open(self) -> None:
        super()._open()
        self._exact = Stamped  # what is put into memory

    def put(self, key: K, value: V) -> None:
        if type(key) is not self._exact_key or type(value) is not self._fit.exact:
            self._must_fit(key, value)
        if self._per_access:
            self._visit(self._per_access)
        now = self._now()
        super().put(key, Stamped(value, now, now))  # type: ignore[arg-type]  # in memory an entry is its value with a stamp

    def _must_fit(self, key: K, value: Any) -> None:
        super()._must_fit(key, value.value if type(value) is Stamped else value)

    def contains(self, key: K) -> bool:
        return self._found(key) is not None

    def is_empty(self) -> bool:
        return not self._living()

    def entries(self) -> ItemsView[K, V]:
        return self._read().items()

    def keys(self) -> KeysView[K]:
        return self._read().keys()

    def values(self) -> ValuesView[V]:
        return self._read().values()

    def __getitem__(self, key: K) -> V:
        row = self._found(key)
        if row is None:
            raise KeyError(key)
        value: V = row.value
        return value

    def _found(self, key: K) -> Stamped | None:
        """A living entry, renewed if reading renews."""
        if self._per_access:
            self._visit(self._per_access)
        entries = self._entries()
        row: Stamped | None = None if entries is None else entries.get(key)
        if row is None:
            return None
        owner = self._context.key
        if self._expired(row.stamp):
            if not self._visible:
                self._remove(owner, key)
                return None
        elif self._touching and self._touch(row):
            self._dirty.setdefault(owner, {})[key] = None
        return row

    def _living(self) -> dict[K, Stamped]:
        """The current key's entries; those that expired are removed on the way unless they may be seen."""
        if self._per_access:
            self._visit(self._per_access)
        entries = self._entries() or {}
        if not self._visible:
            self._expire(self._context.key, entries)
        return entries

    def _read(self) -> dict[K, V]:
        owner = self._context.key
        entries = self._living()
        if self._touching:
            for key, row in entries.items():
                if not self._expired(row.stamp) and self._touch(row):
                    self._dirty.setdefault(owner, {})[key] = None
        return {key: row.value for key, row in entries.items()}

    def _expire(self, owner: str, entries: dict[K, Any]) -> None:
        for key in [key for key, row in entries.items() if self._expired(row.stamp)]:
            self._remove(owner, key)

    def _remove(self, owner: str, key: K) -> None:
        del self._rows[owner][key]
        self._dirty.setdefault(owner, {})[key] = None

    def _thaw(self, owner: str) -> dict[K, Any] | None:
        entries = super()._thaw(owner)
        for key, row in (entries or {}).items():
            if row.logged == UNSTAMPED:
                self._dirty.setdefault(owner, {})[key] = None  # its life begins now
        return entries

    def _decoded(self, parts: Mapping[bytes, bytes], owner: str) -> dict[K, Any]:
        now = self._now()
        entries: dict[K, Any] = {}
        for part, row in parts.items():
            logged = stamp_of(row)
            value = decode_row(self._decode, row, self.name, owner)
            stamp = now if logged == UNSTAMPED else logged
            entries[decode_row(self._decode_key, part, self.name, owner)] = Stamped(value, stamp, logged)
        return entries

    def _encoded(self, value: Any) -> bytes:
        return stamped(value.stamp, encode(value.value))

    def _logged(self, value: Any) -> bytes:
        value.logged = value.stamp
        return self._encoded(value)

    def look(self, key: str) -> Any:
        entries = super().look(key) or {}
        return {k: row.value for k, row in entries.items() if self._visible or not self._expired(row.stamp)} or None

    def stored_keys(self) -> Iterator[str]:
        return (key for key in super().stored_keys() if self.look(key) is not None)

    def stored_rows(self) -> Iterator[Row]:
        return (item for item in super().stored_rows() if not self._expired_row(item[1]))

    def _check(self, key: str) -> None:
        entries = self._rows.get(key)
        if entries is None:
            parts = self._cold.look(key.encode())[1] or {}
            stamps = [stamp_of(row) for row in parts.values()]
            if any(stamp == UNSTAMPED or self._expired(stamp) for stamp in stamps):
                entries = self._thaw(key)
        if entries:
            self._expire(key, entries)
