"""What all kinds of keyed state share: a declaration on the class that becomes a live handle on the instance.

``recent = ListState(Event, keep_last=10)`` in a class body is a *declaration*.  When the operator opens, an instance attribute of the
same name replaces it: a *handle* bound to one partition, which reads the current key from the context that it shares with the
driver.  Both are one public type; nothing is looked up or rebound per record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Self, TypeVar

import msgspec

from models.errors import StateError
from models.time import NO_TIME, Millis
from tables.changelog import Row, part_suffix, row_prefix
from tables.mutations import checked
from tables.store import StateStore, StoredRows
from tables.ttl import STAMP_MARK, STAMP_SIZE, Ttl

T = TypeVar("T")
Handle = TypeVar("Handle", bound="KeyedState")

encode = msgspec.msgpack.Encoder().encode


class KeyContext:
    """What "current" means: the driver writes it before each call, every handle of the partition reads it."""

    __slots__ = ("key", "processing_time_ms", "timestamp_ms", "watermark_ms")

    def __init__(self) -> None:
        self.key: str = ""
        self.timestamp_ms: Millis = NO_TIME
        self.watermark_ms: Millis = NO_TIME
        self.processing_time_ms: Millis = NO_TIME


class NoKey(str):
    """The current key where there is none: what looks for something under it is told so."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise StateError(
            f"{self!s} uses state or timers in open(), where no key is current: use them where records are"
        )

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        hash(self)
        return b""


class KeylessState:
    """Stands for a keyed state where no key is ever current: on the broadcast side of a function."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by copy and the like
            raise AttributeError(attribute)
        raise StateError(
            f"state {self._name!r} is keyed, and in process_broadcast_element no key is current: put what all keys see into a BroadcastState"
        )


class KeyedState:
    """Base of the state kinds.  ``name`` is how the state is found in savepoints, queries and the changelog."""

    #: how ``/v1/operators`` names the kind
    kind: str = ""
    name: str = ""
    ttl: Ttl | None = None
    #: whether a key has a row for each of its parts, or one in all; ``None`` where it may have both
    parted: ClassVar[bool | None] = None
    #: the class that adds a time to live to this kind (see tables/__init__.py: it derives from the kind, so the kind does not know it)
    with_ttl: ClassVar[type[KeyedState] | None] = None
    #: if set, to be told the keys of some records before their turn, so that what they touch comes from memory side by side; changes nothing
    ahead: Callable[[list[str]], None] | None = None

    # Bound by ``bind``.  Declared here so that a handle used before the operator is open fails with a plain message.
    _context: KeyContext
    _cold: StoredRows
    _prefix: bytes
    _rows: dict[str, Any]
    _dirty: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(_declaring(cls))

    def __init__(self, *, name: str | None = None, ttl: Ttl | None = None) -> None:
        if name is not None:
            self.name = _checked(name)
        if ttl is not None and not isinstance(ttl, Ttl):
            raise StateError(f"ttl={ttl!r}: a time to live is a Ttl, for instance ttl=Ttl(timedelta(hours=2))")
        self.ttl = ttl

    def __set_name__(self, owner: type, name: str) -> None:
        if not self.name:
            self.name = _checked(name)

    def bind(self: Handle, context: KeyContext, store: StateStore) -> Handle:
        """The live handle of this declaration for one partition."""
        handle_class: Any = type(self).__base__
        added = self._added()
        if added is not None:
            handle_class = _combined(added, handle_class)
        handle: Handle = object.__new__(handle_class)
        # One by one: updating __dict__ as a whole would make every later attribute load slower (unshared keys).
        for attribute, value in vars(self).items():
            setattr(handle, attribute, value)
        handle._context = context
        handle._cold = store.rows(self.name)
        handle._prefix = row_prefix(self.name)
        handle._open()
        handle._check_rows()
        handle._cold.attach(handle)
        if store.check_mutations:
            checked(handle)
        return handle

    def _check_rows(self) -> None:
        """Refuse rows that another kind of state wrote: it would not find them, and begin with nothing."""
        if self.parted is None or not self._cold:
            return
        for raw in self._cold.all_keys():
            whole, parts = self._cold.look(raw)
            if (whole is not None) if self.parted else parts:
                raise self._foreign(raw)
            return  # all rows of a state are of one kind

    def _foreign(self, raw: bytes) -> StateError:
        return StateError(
            f"state {self.name!r} of key {raw.decode()!r} was not written by a {self.kind} state: a state of another kind needs "
            "another name, so rename the attribute or give it name="
        )

    def _added(self) -> type[KeyedState] | None:
        """A class that adds what the options want: a state without a time to live has no branch for it."""
        if self.ttl is None:
            return None
        if self.with_ttl is None:
            raise StateError(f"state {self.name!r}: {self.kind} state has no time to live")
        return self.with_ttl

    def _open(self) -> None:
        raise NotImplementedError

    # In memory, above the store (tables.store.LiveRows)

    def is_clean(self) -> bool:
        """Whether nothing has changed since the last freeze."""
        return not self._dirty

    def live_keys(self) -> list[str]:
        """Keys whose values are in memory."""
        return list(self._rows)

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        """Rows of these keys as they are in memory."""
        raise NotImplementedError

    def trim(self, most: int) -> None:
        """Keep the values of ``most`` keys in memory; the others are in the store."""
        rows = self._rows
        for key in list(islice(rows, max(0, len(rows) - most))):
            del rows[key]

    def begin(self, now_ms: Millis, watermark_ms: Millis) -> None:
        """Say what time it is, for a time to live; it stands still until the next call.

        The driver calls it for states with ``ttl`` before each batch, and when time passes without one.  ``now_ms`` is the processing
        time.  The watermark is read from the context, record by record, so that event-time results do not depend on where
        batches are cut.
        """
        self._context.processing_time_ms = now_ms

    def sweep(self, now_ms: Millis, budget: int) -> bool:
        """Clean up expired rows: look at up to ``budget`` keys, as many as are due.  ``True``: more are due now.

        The driver calls it for states with ``ttl`` between batches, with a budget of some thousand keys (about 1 us each).  All keys are
        visited within a tenth of the time to live.  What expired is gone from memory at once, and from store and changelog with the
        next ``freeze``.
        """
        return False

    def freeze(self, put: list[Row]) -> None:
        """Append the rows of every key changed since the last call, tombstones before puts, and forget the changes."""
        raise NotImplementedError

    def look(self, key: str) -> Any:
        """Value for a key as a query shows it (``None`` if absent); changes nothing."""
        raise NotImplementedError

    def stored_keys(self) -> Iterator[str]:
        """All keys that have a value, in no order."""
        raise NotImplementedError

    def stored_rows(self) -> Iterator[Row]:
        """Every row of the state as it is now, changed or not (snapshots)."""
        raise NotImplementedError


class PartedState(KeyedState):
    """Base of the kinds that have a row per part of a key's value, and none for the whole."""

    parted = True

    def stored_rows(self) -> Iterator[Row]:
        yield from self.live_rows(list(self._rows))
        for raw in self._cold.all_keys():
            if raw.decode() not in self._rows:
                for part, row in (self._cold.look(raw)[1] or {}).items():
                    yield self._prefix + raw + part_suffix(part), row


def declared_states(function: object) -> dict[str, tuple[str, KeyedState]]:
    """States declared on a function's class: state name to (attribute, declaration).  One name declared twice is refused."""
    declared: dict[str, KeyedState] = {}
    for cls in reversed(type(function).__mro__):
        for attribute, value in vars(cls).items():
            if isinstance(value, KeyedState):
                declared[attribute] = value
            else:
                declared.pop(attribute, None)
    found: dict[str, tuple[str, KeyedState]] = {}
    for attribute, state in sorted(declared.items()):
        if state.name in found:
            other = found[state.name][0]
            raise StateError(
                f"{type(function).__name__}: the states {other!r} and {attribute!r} are both named {state.name!r}; "
                "rename one with name="
            )
        found[state.name] = attribute, state
    return found


def _checked(name: str) -> str:
    if not name or not name.isascii() or "\0" in name or "/" in name:
        raise StateError(f"state name {name!r}: use ASCII without slashes")
    return name


def decoder(of: Any) -> msgspec.msgpack.Decoder[Any]:
    """Decoder for a state's type; an unsupported type is refused when the class is defined."""
    try:
        return msgspec.msgpack.Decoder(of)
    except TypeError as exc:
        raise StateError(f"state of {of!r}: {exc}; use a msgspec.Struct, a dataclass or a built-in type") from exc


def decode_row(decode: Any, row: bytes, name: str, key: str) -> Any:
    """Decode a stored row, with or without a stamp, or say which one does not fit the declared type."""
    try:
        return decode(row[STAMP_SIZE:] if row[0] == STAMP_MARK else row)
    except msgspec.DecodeError as exc:
        raise StateError(
            f"state {name!r} of key {key!r} does not fit its declared type: {exc}; declare the type that it was written with"
        ) from exc


def unencodable(exc: BaseException, name: str, key: str) -> StateError:
    """What to raise when a value cannot be written."""
    return StateError(f"state {name!r} of key {key!r} cannot be encoded: {exc}; give it values of its declared type")


_DECLARING: dict[type, Any] = {}


def _declaring(kind: type[T]) -> type[T]:
    """The class of a kind's declarations, made once.

    Using one as if it were a handle says what is wrong.  That takes ``__getattr__``, and a class with it is not the handles' own: each of
    their attribute loads would be ten times slower.
    """
    found: type[T] | None = _DECLARING.get(kind)
    if found is None:
        names = {"__getattr__": _used_before_open, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
        found = _DECLARING[kind] = type(kind.__name__, (kind,), names)
    return found


def _used_before_open(state: KeyedState, attribute: str) -> Any:
    # Only what ``bind`` sets is missing.
    if attribute.startswith("_") and not attribute.startswith("__"):
        raise StateError(
            f"state {state.name or '?'!r} is used before its operator is open; declare it in the body of the operator's class, "
            "and use it from open() on"
        )
    raise AttributeError(attribute)


_COMBINED: dict[tuple[Any, Any], Any] = {}


def _combined(first: Any, second: Any) -> Any:
    """The class with ``first`` in front of ``second``, made once."""
    found = _COMBINED.get((first, second))
    if found is None:
        found = _COMBINED[first, second] = type(f"{second.__name__}{first.__name__}", (first, second), {})
    return found
