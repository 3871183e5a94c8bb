"""MapState: a map per key, one changelog row per entry."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from functools import lru_cache
from typing import Any, Generic, TypeVar, overload

from tables.changelog import Row, part_suffix
from tables.fit import fit_of
from tables.state import PartedState, decode_row, decoder, encode, unencodable
from tables.ttl import Ttl

K = TypeVar("K")
V = TypeVar("V")

#: Row ends that a map of texts remembers: few of them make up most of what changes.
MOST_ENDS = 10_000


class MapState(PartedState, Generic[K, V]):
    """A map per key.  A changed entry is one changelog row of its own, whatever the size of the map.

    ``key`` and ``value`` are the types of the entries; keys must be hashable.  Row: part = MessagePack of the entry's key, value = the
    entry's value.
    """

    kind = "map"

    def __init__(self, key: type[K], value: type[V], *, ttl: Ttl | None = None, name: str | None = None) -> None:
        super().__init__(name=name, ttl=ttl)
        self.key_type = key
        self.of = value
        self._decode_key = decoder(key).decode
        #: 1 and 1.0 are the same key of a map, so they have to have the same row
        self._pack_key = _encode_float if key is float else encode
        self._decode = decoder(value).decode
        self._key_fit, self._fit = fit_of(key), fit_of(value)
        self._exact_key, self._exact = self._key_fit.exact, self._fit.exact

    def _open(self) -> None:
        #: an empty map stands here from its last removal to the next freeze: what the store has of it is history
        self._rows: dict[str, dict[K, Any]] = {}
        self._dirty: dict[str, dict[K, None]] = {}
        # Of texts equal ones have equal ends; 1 and 1.0 do not.
        self._end_of = lru_cache(MOST_ENDS)(self._end) if self.key_type is str else self._end

    def _end(self, key: K) -> bytes:
        return part_suffix(self._pack_key(key))

    def _entries(self) -> dict[K, Any] | None:
        key = self._context.key
        entries = self._rows.get(key)
        if entries is None and self._cold:
            entries = self._thaw(key)
        return entries

    @overload
    def get(self, key: K) -> V | None: ...

    @overload
    def get(self, key: K, default: V) -> V: ...

    def get(self, key: K, default: V | None = None) -> V | None:
        """The value of an entry; without it ``default``."""
        entries = self._rows.get(
            self._context.key
        )  # inline, here and in ``put``: two of these calls are made per count
        if entries is None and self._cold:
            entries = self._thaw(self._context.key)
        return default if entries is None else entries.get(key, default)

    def put(self, key: K, value: V) -> None:
        """Set an entry."""
        if type(key) is not self._exact_key or type(value) is not self._exact:
            self._must_fit(key, value)
        owner = self._context.key
        entries = self._rows.get(owner)
        if entries is None:
            entries = (self._thaw(owner) if self._cold else None) or self._rows.setdefault(owner, {})
        entries[key] = value
        dirty = self._dirty.get(owner)
        if dirty is None:
            self._dirty[owner] = {key: None}
        else:
            dirty[key] = None

    def _must_fit(self, key: K, value: V) -> None:
        self._key_fit.check(key, self.name)
        self._fit.check(value, self.name)

    def put_all(self, entries: Mapping[K, V]) -> None:
        """Set several entries."""
        for key, value in entries.items():
            self.put(key, value)

    def remove(self, key: K) -> None:
        """Remove an entry; nothing happens without it."""
        entries = self._entries()
        if entries is not None and key in entries:
            del entries[key]
            self._dirty.setdefault(self._context.key, {})[key] = None

    def contains(self, key: K) -> bool:
        """Whether there is such an entry."""
        entries = self._entries()
        return entries is not None and key in entries

    def clear(self) -> None:
        """Remove all entries of the current key."""
        entries = self._entries()
        if entries:
            owner = self._context.key
            self._dirty.setdefault(owner, {}).update(dict.fromkeys(entries))
            self._rows[owner] = {}

    def is_empty(self) -> bool:
        """Whether the current key has no entry."""
        return not self._entries()

    def entries(self) -> ItemsView[K, V]:
        """A live view of (key, value) pairs: read it, do not change the map while iterating.

        Their order is that of putting, until a restart: sort them where it matters.
        """
        return (self._entries() or {}).items()

    def keys(self) -> KeysView[K]:
        """As :meth:`entries`, the keys only."""
        return (self._entries() or {}).keys()

    def values(self) -> ValuesView[V]:
        """As :meth:`entries`, the values only."""
        return (self._entries() or {}).values()

    def __getitem__(self, key: K) -> V:
        entries = self._entries()
        if entries is None:
            raise KeyError(key)
        found: V = entries[key]
        return found

    def __setitem__(self, key: K, value: V) -> None:
        self.put(key, value)

    def __delitem__(self, key: K) -> None:
        self.remove(key)

    def __contains__(self, key: K) -> bool:
        return self.contains(key)

    def __iter__(self) -> Iterator[K]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def _thaw(self, owner: str) -> dict[K, Any] | None:
        parts = self._cold.take(owner.encode())[1]
        if not parts:
            return None
        entries = self._rows[owner] = self._decoded(parts, owner)
        return entries

    def _decoded(self, parts: Mapping[bytes, bytes], owner: str) -> dict[K, Any]:
        return {
            decode_row(self._decode_key, part, self.name, owner): decode_row(self._decode, row, self.name, owner)
            for part, row in parts.items()
        }

    def _encoded(self, value: Any) -> bytes:
        return encode(value)

    def _logged(self, value: Any) -> bytes:
        """As ``_encoded``, for the changelog."""
        return encode(value)

    def freeze(self, put: list[Row]) -> None:
        owner = ""
        rows, prefix, encoded = self._rows, self._prefix, self._logged
        append, end_of = put.append, self._end_of
        try:
            for owner, changed in self._dirty.items():
                entries = rows.get(owner) or {}
                start = prefix + owner.encode()
                for key in changed:
                    append((start + end_of(key), encoded(entries[key]) if key in entries else None))
                if not entries:
                    rows.pop(owner, None)
        except (TypeError, ValueError, OverflowError) as exc:
            raise unencodable(exc, self.name, owner) from exc
        self._dirty.clear()

    def look(self, key: str) -> Any:
        entries = self._rows.get(key)
        if entries is None:
            parts = self._cold.look(key.encode())[1]
            return self._decoded(parts, key) if parts else None
        return dict(entries) or None

    def stored_keys(self) -> Iterator[str]:
        for owner, entries in self._rows.items():
            if entries:
                yield owner
        for raw in self._cold.all_keys():
            key = raw.decode()
            if key not in self._rows:
                yield key

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        for owner in keys:
            start = self._prefix + owner.encode()
            for key, value in self._rows.get(owner, {}).items():
                rows.append((start + self._end_of(key), self._encoded(value)))
        return rows


def _encode_float(key: Any) -> bytes:
    return encode(float(key))
