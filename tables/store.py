"""Where the state of one operator on one partition lies: what every store offers, and the store in memory.

A store holds *rows*, encoded as they are in the changelog.  A handle decodes a key's rows when the key is first used and works on the
values from then on; rows that nobody touches stay bytes.  That makes a restart cheap: reading the changelog back is copying bytes.

``StateStore`` and ``StoredRows`` are the contract.  The store in memory hands a key's rows over for good; the one on disk keeps
committed rows for ever and treats the handles' values as a cache.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from models.time import Millis
from tables.changelog import (
    MARKER_PREFIX,
    META_PREFIX,
    NO_PART,
    ORIGIN_KEY,
    SEPARATOR,
    Marker,
    Row,
    part_suffix,
    read_marker,
    split_row_key,
)
from tables.log import Record

#: A key's rows: the one without a part, and the others by part.
KeyRows = tuple[bytes | None, Mapping[bytes, bytes] | None]


class LiveRows(Protocol):
    """A state's values in memory, above its stored rows: a handle, or whatever else keeps state of an operator."""

    def is_clean(self) -> bool:
        """Whether nothing has changed since the last freeze."""

    def live_keys(self) -> list[str]:
        """Keys whose values are in memory."""

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        """Rows of those of the keys that are in memory, as the changelog has them."""

    def trim(self, most: int) -> None:
        """Forget values, oldest first, until ``most`` are left; only while all are clean and lie in the store, too."""


class StoredRows(Protocol):
    """Rows of one state.  False when there are none, so that a handle need not ask."""

    def __bool__(self) -> bool: ...

    def __len__(self) -> int:
        """About how many keys there are."""

    def take(self, key: bytes) -> KeyRows:
        """A key's rows for a handle that keeps the value from now on."""

    def take_whole(self, key: bytes) -> bytes | None:
        """As ``take``, for kinds that have no parts."""

    def look(self, key: bytes) -> KeyRows:
        """A key's rows, for somebody who only looks."""

    def drop(self, key: bytes) -> None:
        """The key's rows are being replaced by a handle that has not read them."""

    def all_keys(self) -> Iterator[bytes]:
        """Every key once.  Rows may change meanwhile; a key added meanwhile may be missing."""

    def attach(self, live: LiveRows) -> None:
        """Say who has the values of this state in memory."""


class StateStore(Protocol):
    """Everything that a changelog partition says: rows by state, and the marker of each source topic.

    The life of a row: a handle encodes it (``freeze``), ``seal`` tells the store, the part is written to the log, ``committed`` says
    that it is there for good.  Only ``apply`` and ``committed`` change what a restart finds.
    """

    markers: dict[str, Marker]
    #: where the changelog goes on after what is in the store
    next_offset: int
    #: where to begin reading it again: the last part once more, which proves by its origin row that it is the same changelog
    resume_offset: int
    #: wall clock (ms) when the rows were last known to be all there is, 0 never
    saved_ms: Millis
    #: names the changelog that the rows come from, "" before anything was read
    origin: str
    #: whether handles report values that were mutated in place (tests)
    check_mutations: bool

    def rows(self, state: str) -> StoredRows: ...

    def apply(self, records: Iterable[Record], next_offset: int) -> None:
        """Apply changelog records, in order, while the state is being restored."""

    def seal(self, rows: Sequence[Row]) -> None:
        """Take note of rows just frozen.  All handles are clean: their values and these rows say the same."""

    def committed(self, rows: Sequence[Row], next_offset: int) -> None:
        """A part of sealed rows (its marker included) is durable; the changelog goes on at ``next_offset``."""

    def identity(self) -> list[Row]:
        """Rows to put into the next part so that the changelog can be told from another of the same name."""

    def dump(self) -> Iterator[Row]:
        """The stored rows, as changelog rows."""

    def reset(self) -> None:
        """Forget everything, for the changelog to be read from its beginning.  Before any handle is bound."""

    def close(self) -> None: ...


class ColdRows:
    """Rows of one state that wait in memory: whole values by key, and parts of values by key and place."""

    __slots__ = ("live", "parts", "whole")

    def __init__(self) -> None:
        self.live: LiveRows | None = None
        self.whole: dict[bytes, bytes] = {}
        self.parts: dict[bytes, dict[bytes, bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self.whole or self.parts)

    def __len__(self) -> int:
        return len(self.whole) + len(self.parts)

    def apply(self, key: bytes, part: bytes, value: bytes | None) -> None:
        """Put or delete one row."""
        if not part:
            if value is None:
                self.whole.pop(key, None)
            else:
                self.whole[key] = value
        elif value is not None:
            self.parts.setdefault(key, {})[part] = value
        else:
            rows = self.parts.get(key)
            if rows is not None:
                rows.pop(part, None)
                if not rows:
                    del self.parts[key]

    def take(self, key: bytes) -> KeyRows:
        return self.whole.pop(key, None), self.parts.pop(key, None)

    def take_whole(self, key: bytes) -> bytes | None:
        return self.whole.pop(key, None)

    def look(self, key: bytes) -> KeyRows:
        return self.whole.get(key), self.parts.get(key)

    def drop(self, key: bytes) -> None:
        self.whole.pop(key, None)
        self.parts.pop(key, None)

    def all_keys(self) -> Iterator[bytes]:
        keys = list(self.whole)
        if self.parts:
            keys.extend(key for key in self.parts if key not in self.whole)
        return iter(keys)

    def attach(self, live: LiveRows) -> None:
        self.live = live


class StoreMeta:
    """What all stores remember besides rows."""

    def __init__(self, *, check_mutations: bool = False) -> None:
        self.markers: dict[str, Marker] = {}
        self.next_offset = 0
        self.resume_offset = 0
        self.saved_ms: Millis = 0
        self.origin = ""
        self.check_mutations = check_mutations

    def clear_meta(self) -> None:
        self.markers.clear()
        self.next_offset = self.resume_offset = self.saved_ms = 0
        self.origin = ""

    def read_meta(self, key: bytes, value: bytes | None) -> None:
        """Take note of a row that is no state row; unknown ones are of a newer version and left alone."""
        if value is None:
            return
        if key.startswith(MARKER_PREFIX):
            topic, marker = read_marker(key, value)
            self.markers[topic] = marker
        elif key == ORIGIN_KEY:
            self.origin = value.decode()

    def identity(self) -> list[Row]:
        # In every part, so that whoever reads only the newest one finds it.
        self.origin = self.origin or uuid.uuid4().hex
        return [(ORIGIN_KEY, self.origin.encode())]


class PartitionStore(StoreMeta):
    """The store in memory (see :class:`StateStore`)."""

    def __init__(self, *, check_mutations: bool = False) -> None:
        super().__init__(check_mutations=check_mutations)
        self.states: dict[str, ColdRows] = {}
        #: states that somebody asked for, and so may have in memory
        self.opened: set[str] = set()
        #: parts sealed and committed so far: equal when memory and changelog say the same
        self.sealed_parts = 0
        self.committed_parts = 0

    def rows(self, state: str) -> ColdRows:
        self.opened.add(state)
        return self._rows(state)

    def _rows(self, state: str) -> ColdRows:
        return self.states.setdefault(state, ColdRows())

    def apply(self, records: Iterable[Record], next_offset: int) -> None:
        # Millions of times in a start.  Nearly all are rows without a part, so those are put in place right here: a third of the time.
        names: dict[bytes, tuple[ColdRows, dict[bytes, bytes]]] = {}
        for record in records:
            key, value = record.key, record.value
            if key is None:
                continue
            name, _, rest = key.partition(SEPARATOR)
            if not name:  # META_PREFIX
                self.read_meta(key, value)
                if key == ORIGIN_KEY:
                    self.resume_offset = record.offset
                continue
            found = names.get(name)
            if found is None:
                cold = self._rows(name.decode("ascii"))
                found = names[name] = cold, cold.whole
            if value is not None and rest[-2:] == NO_PART:
                found[1][rest[:-2]] = value
            else:
                found[0].apply(*split_row_key(key)[1:], value)
        self.next_offset = next_offset

    def seal(self, rows: Sequence[Row]) -> None:
        self.sealed_parts += 1

    def committed(self, rows: Sequence[Row], next_offset: int) -> None:
        self.resume_offset, self.next_offset = self.next_offset, next_offset
        self.committed_parts += 1
        for key, value in reversed(rows):  # markers stand at the end
            if not key.startswith(META_PREFIX):
                break
            self.read_meta(key, value)

    def dump(self) -> Iterator[Row]:
        for name, cold in self.states.items():
            prefix = name.encode("ascii") + SEPARATOR
            for key, value in cold.whole.items():
                yield prefix + key + NO_PART, value
            for key, parts in cold.parts.items():
                for part, value in parts.items():
                    yield prefix + key + part_suffix(part), value

    def reset(self) -> None:
        self.states.clear()
        self.clear_meta()

    def close(self) -> None:
        """Nothing is open."""
