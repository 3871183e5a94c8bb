"""BroadcastState: one map that every partition of every worker sees, written only by the broadcast side."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Generic, TypeVar, overload
from weakref import WeakSet

from models.errors import StateError
from tables.state import declared_states

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

#: derive(map, keys changed since ``previous``, previous derived value or None) -> derived value
Derive = Callable[[Mapping[K, V], set[K], Any], D]


class _Shared(Generic[K, V]):
    """What all handles of one broadcast state in a worker share."""

    def __init__(self) -> None:
        self.entries: dict[K, V] = {}
        self.changed: set[K] = set()
        self.derived: Any = None
        self.stale = True
        self.readers: WeakSet[BroadcastState[K, V]] = WeakSet()


class BroadcastState(Generic[K, V]):
    """A map filled from a broadcast topic: read-only on the data side, writable in ``process_broadcast_element``.

    ``derive`` makes something faster to use of the whole map (compiled rules, say).  It runs at the first ``derived()`` after a
    change, once for all partitions of the worker.
    """

    kind = "broadcast"
    name: str = ""

    _shared: _Shared[K, V]
    _writable: bool
    #: called when the map has begun to change; the next ``derived()`` is another one
    on_change: Callable[[], None] | None = None

    def __init__(
        self, key: type[K], value: type[V], *, derive: Derive[K, V, Any] | None = None, name: str | None = None
    ) -> None:
        self.key_type = key
        self.of = value
        self.derive = derive
        self.name = name or ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def share(self) -> BroadcastState[K, V]:
        """The worker's writable handle, with an empty map of its own."""
        return self._handle(_Shared(), writable=True)

    def reader(self) -> BroadcastState[K, V]:
        """A read-only handle on the same map."""
        handle = self._handle(self._shared, writable=False)
        self._shared.readers.add(handle)
        return handle

    def _handle(self, shared: _Shared[K, V], *, writable: bool) -> BroadcastState[K, V]:
        handle: BroadcastState[K, V] = BroadcastState(self.key_type, self.of, derive=self.derive, name=self.name)
        handle._shared = shared
        handle._writable = writable
        return handle

    def put(self, key: K, value: V) -> None:
        """Set an entry.  Raises :class:`models.errors.StateError` on the data side."""
        self._write(key)
        self._shared.entries[key] = value

    def remove(self, key: K) -> None:
        """Remove an entry, if there is one.  Raises :class:`models.errors.StateError` on the data side."""
        self._write(key)
        self._shared.entries.pop(key, None)

    def clear(self) -> None:
        """Remove all entries.  Raises :class:`models.errors.StateError` on the data side."""
        self._may_write()
        for key in list(self._shared.entries):
            self.remove(key)

    @overload
    def get(self, key: K) -> V | None: ...

    @overload
    def get(self, key: K, default: V) -> V: ...

    def get(self, key: K, default: V | None = None) -> V | None:
        """The value of an entry; without it ``default``."""
        return self._shared.entries.get(key, default)

    def contains(self, key: K) -> bool:
        """Whether there is such an entry."""
        return key in self._shared.entries

    def entries(self) -> ItemsView[K, V]:
        """A live view of (key, value) pairs."""
        return self._shared.entries.items()

    def keys(self) -> KeysView[K]:
        """As :meth:`entries`, the keys only."""
        return self._shared.entries.keys()

    def values(self) -> ValuesView[V]:
        """As :meth:`entries`, the values only."""
        return self._shared.entries.values()

    def is_empty(self) -> bool:
        """Whether there is no entry."""
        return not self._shared.entries

    def __getitem__(self, key: K) -> V:
        return self._shared.entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self._shared.entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._shared.entries)

    def __len__(self) -> int:
        return len(self._shared.entries)

    def derived(self) -> Any:
        """What ``derive`` made of the map as it is now."""
        shared = self._shared
        if shared.stale:
            if self.derive is None:
                raise StateError(f"broadcast state {self.name!r} was declared without derive=")
            shared.derived = self.derive(shared.entries, shared.changed, shared.derived)
            shared.changed = set()
            shared.stale = False
        return shared.derived

    @property
    def stale(self) -> bool:
        """Whether the map changed since ``derived`` was last asked."""
        return self._shared.stale

    def _write(self, key: K) -> None:
        self._may_write()
        shared = self._shared
        shared.changed.add(key)
        if not shared.stale:
            shared.stale = True
            for reader in shared.readers:
                if reader.on_change is not None:
                    reader.on_change()

    def _may_write(self) -> None:
        if not self._writable:
            raise StateError(
                f"broadcast state {self.name!r} is read-only here: write it in process_broadcast_element, which every worker runs"
            )


def declared_broadcasts(function: object) -> dict[str, tuple[str, BroadcastState[Any, Any]]]:
    """Broadcast states declared on a function's class: state name to (attribute, declaration).  One name declared twice is refused."""
    declared: dict[str, BroadcastState[Any, Any]] = {}
    for cls in reversed(type(function).__mro__):
        for attribute, value in vars(cls).items():
            if isinstance(value, BroadcastState):
                declared[attribute] = value
            else:
                declared.pop(attribute, None)
    keyed = {name: attribute for name, (attribute, _) in declared_states(function).items()}
    found: dict[str, tuple[str, BroadcastState[Any, Any]]] = {}
    for attribute, state in sorted(declared.items()):
        other = keyed.get(state.name) or (found[state.name][0] if state.name in found else None)
        if other is not None:
            raise StateError(
                f"{type(function).__name__}: the states {other!r} and {attribute!r} are both named {state.name!r}; "
                "rename one with name="
            )
        found[state.name] = attribute, state
    return found
