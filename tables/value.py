"""ValueState: one value per key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from models.errors import StateError
from tables.changelog import NO_PART, Row
from tables.fit import fit_of
from tables.state import KeyedState, decode_row, decoder, encode, unencodable
from tables.ttl import Ttl

T = TypeVar("T")


class ValueState(KeyedState, Generic[T]):
    """One value per key.

    ``of`` is the value's type (a msgspec Struct, dataclass or built-in).  A change is what ``update`` was told: mutating a value that
    ``value()`` returned changes nothing durable until it is given to ``update``.  ``None`` is no value.  Row: the value.

    ``default`` is what a key without a value has: a number, text or bytes, or a function that makes it.  Raises
    :class:`models.errors.StateError` for a type that cannot be stored and when a part is cut for a value that cannot be encoded, and
    :class:`models.errors.BadRecord` for a value of another type.  What a collection holds is not looked at before it is read back
    (``OperatorHarness(check_mutations=True)`` does).
    """

    kind = "value"
    parted = False

    def __init__(
        self,
        of: type[T],
        *,
        default: Callable[[], T] | T | None = None,
        ttl: Ttl | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, ttl=ttl)
        self.of = of
        self.default: Callable[[], T] | None = None
        if callable(default):
            self.default = default
        elif isinstance(default, (int, float, str, bytes)):
            self.default = lambda: default
        elif default is not None:
            raise StateError(
                f"default={default!r}: all keys would share it; give a function that makes a new one, such as default={type(default).__name__}"
            )
        self._decode = decoder(of).decode
        self._fit = fit_of(of)
        self._exact = self._fit.exact

    def _open(self) -> None:
        self._rows: dict[str, Any] = {}
        self._dirty: dict[str, None] = {}

    def value(self) -> T | None:
        """The current key's value; without one the default if declared (not stored by reading), else ``None``."""
        value: T | None = self._rows.get(self._context.key)
        if value is None:
            if self._cold:
                value = self._thaw(self._context.key)
            if value is None and self.default is not None:
                return self.default()
        return value

    def update(self, value: T) -> None:
        """Set the current key's value."""
        if type(value) is not self._exact and value is not None:
            self._fit.check(value, self.name)
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

    def _thaw(self, key: str) -> Any:
        """The key's value from the store, kept in memory from now on."""
        if key in self._dirty:  # written or cleared since it was stored: the stored row is history
            return self._rows.get(key)
        row = self._cold.take_whole(key.encode())
        if row is None:
            return None
        value = self._rows[key] = self._decoded(row, key)
        return value

    def _decoded(self, row: bytes, key: str) -> Any:
        return decode_row(self._decode, row, self.name, key)

    def _encoded(self, value: Any) -> bytes:
        return encode(value)

    def freeze(self, put: list[Row]) -> None:
        rows, prefix, cold = self._rows, self._prefix, self._cold
        stored = bool(cold)  # asked once: nothing gets into it here, and asking costs as much as a small row
        key = ""
        try:
            for key in self._dirty:
                value = rows.get(key)
                raw = key.encode()
                if stored:
                    cold.drop(raw)  # overwritten without having been read
                if value is None:
                    rows.pop(key, None)
                    put.append((prefix + raw + NO_PART, None))
                else:
                    put.append((prefix + raw + NO_PART, encode(value)))
        except (TypeError, ValueError, OverflowError) as exc:
            raise unencodable(exc, self.name, key) from exc
        self._dirty.clear()

    def look(self, key: str) -> Any:
        value = self._looked(key)
        return None if value is None else self._shown(value)

    def _shown(self, value: Any) -> Any:
        """What a query shows of a value."""
        return value

    def _looked(self, key: str) -> Any:
        value = self._rows.get(key)
        if value is None and key not in self._dirty:
            row = self._cold.look(key.encode())[0]
            if row is not None:
                return self._decoded(row, key)
        return value

    def stored_keys(self) -> Iterator[str]:
        for key, value in self._rows.items():
            if value is not None:
                yield key
        for raw in self._cold.all_keys():
            key = raw.decode()
            if key not in self._rows and key not in self._dirty:
                yield key

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        rows, prefix = self._rows, self._prefix
        return [
            (prefix + key.encode() + NO_PART, self._encoded(value))
            for key in keys
            if (value := rows.get(key)) is not None
        ]

    def stored_rows(self) -> Iterator[Row]:
        yield from self.live_rows(list(self._rows))
        for raw in self._cold.all_keys():
            key = raw.decode()
            if key not in self._rows and key not in self._dirty:
                row = self._cold.look(raw)[0]
                if row is not None:
                    yield self._prefix + raw + NO_PART, row
