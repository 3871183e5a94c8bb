"""State of one operator on one partition, as it came from the changelog: encoded rows, waiting to be touched.

A handle decodes a row the first time its key is used and owns the value from then on; rows that nobody touches stay bytes.
That makes a restart cheap: reading the changelog back is copying bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tables.changelog import MARKER_PREFIX, Marker, Row, read_marker, split_row_key
from tables.log import Record


class ColdRows:
    """Rows of one state that are still encoded: whole values by user key, and parts of values by user key and place."""

    __slots__ = ("parts", "whole")

    def __init__(self) -> None:
        self.whole: dict[bytes, bytes] = {}
        self.parts: dict[bytes, dict[bytes, bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self.whole or self.parts)

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

    def take(self, key: bytes) -> tuple[bytes | None, dict[bytes, bytes] | None]:
        """Hand over a key's rows; they are not cold any more."""
        return self.whole.pop(key, None), self.parts.pop(key, None)

    def look(self, key: bytes) -> tuple[bytes | None, dict[bytes, bytes] | None]:
        """A key's rows, left where they are."""
        return self.whole.get(key), self.parts.get(key)

    def keys(self) -> set[bytes]:
        return self.whole.keys() | self.parts.keys()


class PartitionStore:
    """Everything that the changelog partition says: cold rows by state name, and the marker of each source topic."""

    def __init__(self) -> None:
        self.states: dict[str, ColdRows] = {}
        self.markers: dict[str, Marker] = {}
        #: where reading the changelog goes on
        self.next_offset = 0

    def rows(self, state: str) -> ColdRows:
        return self.states.setdefault(state, ColdRows())

    def apply(self, records: Iterable[Record], next_offset: int) -> None:
        """Apply changelog records in order."""
        names: dict[bytes, ColdRows] = {}
        for record in records:
            key, value = record.key, record.value
            if key is None:
                continue
            if key.startswith(MARKER_PREFIX):
                if value is not None:
                    topic, marker = read_marker(key, value)
                    self.markers[topic] = marker
                continue
            name, user_key, part = split_row_key(key)
            cold = names.get(name)
            if cold is None:
                cold = names[name] = self.rows(name.decode("ascii"))
            cold.apply(user_key, part, value)
        self.next_offset = next_offset

    def dump(self) -> Iterator[Row]:
        """The cold rows again, as changelog rows."""
        for name, cold in self.states.items():
            prefix = name.encode("ascii") + b"\x00"
            for key, value in cold.whole.items():
                yield prefix + key + b"\x00\x00", value
            for key, parts in cold.parts.items():
                for part, value in parts.items():
                    yield prefix + key + part + len(part).to_bytes(2, "big"), value
