"""ValueState: one value per key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from tables.changelog import NO_PART, Row
from tables.state import KeyedState, decode_row, decoder, encode

T = TypeVar("T")


class ValueState(KeyedState, Generic[T]):
    """One value per key.

    ``of`` is the value's type (a msgspec Struct, dataclass or built-in).  A change is what ``update`` was told: mutating a value that
    ``value()`` returned changes nothing durable until it is given to ``update``.
    """

    kind = "value"

    def __init__(self, of: type[T], *, default: Callable[[], T] | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.of = of
        self.default = default
        self._decode = decoder(of).decode

    def _open(self) -> None:
        self._rows: dict[str, T] = {}
        self._dirty: dict[str, None] = {}

    def value(self) -> T | None:
        """The current key's value; without one ``default()`` if declared (not stored by reading), else ``None``."""
        value = self._rows.get(self._context.key)
        if value is None:
            if self._cold:
                value = self._thaw(self._context.key)
            if value is None and self.default is not None:
                return self.default()
        return value

    def update(self, value: T) -> None:
        """Set the current key's value."""
        key = self._context.key
        self._rows[key] = value
        self._dirty[key] = None

    def clear(self) -> None:
        """Remove the current key's value."""
        key = self._context.key
        if self._cold:
            self._thaw(key)
        if self._rows.pop(key, None) is not None:
            self._dirty[key] = None

    def _thaw(self, key: str) -> T | None:
        if key in self._dirty:  # written or cleared since it was read back: the stored row is history
            return self._rows.get(key)
        row = self._cold.take(key.encode())[0]
        if row is None:
            return None
        value: T = decode_row(self._decode, row, self.name, key)
        self._rows[key] = value
        return value

    def freeze(self, put: list[Row]) -> None:
        rows, prefix = self._rows, self._prefix
        for key in self._dirty:
            value = rows.get(key)
            raw = key.encode()
            if self._cold:
                self._cold.take(raw)  # overwritten without having been read
            put.append((prefix + raw + NO_PART, None if value is None else encode(value)))
        self._dirty.clear()

    def look(self, key: str) -> Any:
        value = self._rows.get(key)
        if value is None and key not in self._dirty:
            row = self._cold.look(key.encode())[0]
            if row is not None:
                return decode_row(self._decode, row, self.name, key)
        return value

    def stored_keys(self) -> Iterator[str]:
        yield from self._rows
        for raw in self._cold.keys():
            key = raw.decode()
            if key not in self._rows and key not in self._dirty:
                yield key

    def stored_rows(self) -> Iterator[Row]:
        for key, value in self._rows.items():
            yield self._prefix + key.encode() + NO_PART, encode(value)
        for raw, row in self._cold.whole.items():
            key = raw.decode()
            if key not in self._rows and key not in self._dirty:
                yield self._prefix + raw + NO_PART, row
