"""MapState: a map per key, one changelog row per entry."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Generic, TypeVar

from tables.changelog import Row, part_suffix
from tables.state import KeyedState, decode_row, decoder, encode

K = TypeVar("K")
V = TypeVar("V")


class MapState(KeyedState, Generic[K, V]):
    """A map per key.  A changed entry is one changelog row of its own, whatever the size of the map.

    ``key`` and ``value`` are the types of the entries; keys must be hashable.
    """

    kind = "map"

    def __init__(self, key: type[K], value: type[V], *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.key_type = key
        self.of = value
        self._decode_key = decoder(key).decode
        self._decode = decoder(value).decode

    def _open(self) -> None:
        self._rows: dict[str, dict[K, V]] = {}
        self._dirty: dict[str, dict[K, None]] = {}

    def _entries(self) -> dict[K, V] | None:
        key = self._context.key
        entries = self._rows.get(key)
        if entries is None and self._cold:
            entries = self._thaw(key)
        return entries

    def get(self, key: K, default: V | None = None) -> V | None:
        entries = self._entries()
        return default if entries is None else entries.get(key, default)

    def put(self, key: K, value: V) -> None:
        owner = self._context.key
        entries = self._entries()
        if entries is None:
            entries = self._rows[owner] = {}
        entries[key] = value
        dirty = self._dirty.get(owner)
        if dirty is None:
            self._dirty[owner] = {key: None}
        else:
            dirty[key] = None

    def remove(self, key: K) -> None:
        """Remove an entry; nothing happens without it."""
        entries = self._entries()
        if entries is not None and key in entries:
            owner = self._context.key
            del entries[key]
            self._dirty.setdefault(owner, {})[key] = None
            if not entries:
                del self._rows[owner]

    def contains(self, key: K) -> bool:
        entries = self._entries()
        return entries is not None and key in entries

    def clear(self) -> None:
        """Remove all entries of the current key."""
        entries = self._entries()
        if entries:
            owner = self._context.key
            self._dirty.setdefault(owner, {}).update(dict.fromkeys(entries))
            del self._rows[owner]

    def is_empty(self) -> bool:
        return not self._entries()

    def entries(self) -> ItemsView[K, V]:
        """A live view of (key, value) pairs: read it, do not change the map while iterating."""
        return (self._entries() or {}).items()

    def keys(self) -> KeysView[K]:
        return (self._entries() or {}).keys()

    def values(self) -> ValuesView[V]:
        return (self._entries() or {}).values()

    def __getitem__(self, key: K) -> V:
        entries = self._entries()
        if entries is None:
            raise KeyError(key)
        return entries[key]

    __setitem__ = put
    __delitem__ = remove
    __contains__ = contains

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries() or {})

    def __len__(self) -> int:
        return len(self._entries() or ())

    def _thaw(self, owner: str) -> dict[K, V] | None:
        parts = self._cold.take(owner.encode())[1]
        if not parts:
            return None
        entries = self._rows[owner] = self._decoded(parts, owner)
        return entries

    def _decoded(self, parts: dict[bytes, bytes], owner: str) -> dict[K, V]:
        return {
            decode_row(self._decode_key, part, self.name, owner): decode_row(self._decode, row, self.name, owner)
            for part, row in parts.items()
        }

    def freeze(self, put: list[Row]) -> None:
        for owner, changed in self._dirty.items():
            entries = self._rows.get(owner) or {}
            start = self._prefix + owner.encode()
            for key in changed:
                row = start + part_suffix(encode(key))
                put.append((row, encode(entries[key]) if key in entries else None))
        self._dirty.clear()

    def look(self, key: str) -> Any:
        entries = self._rows.get(key)
        if entries is None:
            parts = self._cold.look(key.encode())[1]
            return self._decoded(parts, key) if parts else None
        return dict(entries)

    def stored_keys(self) -> Iterator[str]:
        yield from self._rows
        for raw in self._cold.parts:
            yield raw.decode()

    def stored_rows(self) -> Iterator[Row]:
        for owner, entries in self._rows.items():
            start = self._prefix + owner.encode()
            for key, value in entries.items():
                yield start + part_suffix(encode(key)), encode(value)
        for raw, parts in self._cold.parts.items():
            for part, row in parts.items():
                yield self._prefix + raw + part_suffix(part), row
