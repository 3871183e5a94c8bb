"""Local snapshots of a partition kept in memory: a file from which a restart reads all but the changelog's tail.

A snapshot is taken in steps while the operator runs, each right after a cut, when memory and the rows just sealed say the same.  Rows
visited late are newer than rows visited early; that does no harm, because a restart reads the changelog again from where it stood at
the beginning, and everything that changed meanwhile is in that tail.  It is published only once every part sealed up to the last step
is durable, so nothing in it is ahead of the changelog.  It is not a savepoint: without its changelog's tail it is worth nothing.

File:  "FAMSNAP1", then blocks: length and CRC-32 of the content (4 bytes each, big endian), content in MessagePack
  first block   [changelog, partition, origin, resume offset, wall clock in ms]
  "w" blocks    ["w", state name, [user key, ...], [row value, ...]]          rows without a part
  "p" blocks    ["p", state name, [user key, part, row value, ...]]           rows with one
  last block    ["end", rows, next offset, {marker row key: value}]

Without its last block a file is not a snapshot.  It is written under another name, synced to disk and renamed.  A file that is damaged,
belongs to another changelog or is too old is discarded with a warning; the changelog alone is always enough.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from models.errors import StateError
from models.time import Clock, Millis, millis
from tables.changelog import NO_PART, Row, marker_row, row_prefix, split_row_key
from tables.store import ColdRows, PartitionStore

log = logging.getLogger(__name__)

MAGIC = b"FAMSNAP1"
#: Keys written in one step of a running worker: a few milliseconds.
KEYS_PER_STEP = 2_000
_BLOCK_KEYS = 2_000
#: Older than this the changelog's tail may lack tombstones that were compacted away (Kafka keeps them for a day).
MAX_AGE = timedelta(hours=12)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class SnapshotWriter:
    """Writes one snapshot of a store in memory, step by step.

    Begin it and call ``step`` at clean moments only (right after a freeze).  ``step`` says when everything is written; after
    that ``ready`` says when ``publish`` may be called, which blocks for a disk sync and is safe to run in a thread.
    """

    def __init__(self, store: PartitionStore, path: Path, *, changelog: str, partition: int, now_ms: Millis) -> None:
        unknown = unknown_states(store)
        if unknown:
            raise StateError(
                f"no snapshot of {', '.join(unknown)}: whoever keeps this state must attach itself to its rows"
            )
        self.path = path
        self._store = store
        self._rows = 0
        self._complete = False
        self._sealed_parts = 0
        self._end: tuple[int, dict[bytes, bytes | None]] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = path.with_name(path.name + ".tmp")
        self._file: BinaryIO = open(self._temporary, "wb")  # noqa: SIM115  (closed by publish or abort)
        self._file.write(MAGIC)
        self._block([changelog, partition, store.origin, store.resume_offset, now_ms])
        # Lists of keys as of now: whatever is added later is in the changelog's tail.
        work = [
            (name, cold, [] if cold.live is None else cold.live.live_keys(), list(cold.all_keys()))
            for name, cold in store.states.items()
        ]
        self._work = self._blocks(work)

    def step(self, keys: int = KEYS_PER_STEP) -> bool:
        """Write about ``keys`` keys more.  ``True``: all are written."""
        if self._complete:
            return True
        done = 0
        for count in self._work:
            done += count
            if done >= keys:
                return False
        self._complete = True
        self._sealed_parts = self._store.sealed_parts
        return True

    def ready(self) -> bool:
        """Whether everything that was visited is durable in the changelog."""
        store = self._store
        if not self._complete or store.committed_parts < self._sealed_parts:
            return False
        # Now, because ``publish`` may run in a thread while the store goes on.
        self._end = store.next_offset, dict(marker_row(topic, marker) for topic, marker in store.markers.items())
        return True

    def publish(self) -> None:
        """Make the file the partition's snapshot."""
        if self._end is None and not self.ready():
            raise StateError(f"{self.path}: a part that the snapshot holds is not durable yet")
        self._block(["end", self._rows, *(self._end or ())])
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abort(self) -> None:
        """Give up; the snapshot before stays."""
        with suppress(OSError):  # a full disk refuses what is still buffered
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _blocks(self, work: list[tuple[str, ColdRows, list[str], list[bytes]]]) -> Iterator[int]:
        for name, cold, live, stored in work:
            for start in range(0, len(live), _BLOCK_KEYS):
                yield self._live(name, cold, live[start : start + _BLOCK_KEYS])
            for start in range(0, len(stored), _BLOCK_KEYS):
                yield self._stored(name, cold, stored[start : start + _BLOCK_KEYS])

    def _live(self, name: str, cold: ColdRows, keys: Sequence[str]) -> int:
        if cold.live is None:
            return 0
        size = len(row_prefix(name))
        whole: list[tuple[bytes, bytes]] = []
        parts: list[bytes] = []
        row: Row
        for row in cold.live.live_rows(keys):
            key, value = row
            if value is None:
                continue
            if key.endswith(NO_PART):
                whole.append((key[size:-2], value))
            else:
                parts += (*split_row_key(key)[1:], value)
        self._write(name, whole, parts)
        return len(keys)

    def _stored(self, name: str, cold: ColdRows, keys: Sequence[bytes]) -> int:
        whole: list[tuple[bytes, bytes]] = []
        parts: list[bytes] = []
        warm: list[str] = []
        for key in keys:
            value, others = cold.look(key)
            if value is None and not others:
                warm.append(key.decode())  # a handle took it meanwhile
                continue
            if value is not None:
                whole.append((key, value))
            for part, other in (others or {}).items():
                parts += (key, part, other)
        self._write(name, whole, parts)
        self._live(name, cold, warm)
        return len(keys)

    def _write(self, name: str, whole: list[tuple[bytes, bytes]], parts: list[bytes]) -> None:
        if whole:
            self._block(["w", name, [key for key, _ in whole], [value for _, value in whole]])
        if parts:
            self._block(["p", name, parts])
        self._rows += len(whole) + len(parts) // 3

    def _block(self, content: Any) -> None:
        raw = _encode(content)
        self._file.write(len(raw).to_bytes(4, "big") + zlib.crc32(raw).to_bytes(4, "big"))
        self._file.write(raw)


def unknown_states(store: PartitionStore) -> list[str]:
    """States that somebody opened and whose values in memory nobody gives out; a snapshot would miss them."""
    return sorted(name for name in store.opened if store.rows(name).live is None)


def is_clean(store: PartitionStore) -> bool:
    """Whether no state has changed since it was last frozen."""
    return all(cold.live is None or cold.live.is_clean() for cold in store.states.values())


def load_snapshot(path: Path, *, changelog: str, partition: int, check_mutations: bool = False) -> PartitionStore:
    """The store that a snapshot file holds, an empty one if there is none that can be used."""
    try:
        with open(path, "rb") as file:
            store = _load(file, changelog, partition)
    except FileNotFoundError:
        store = PartitionStore()
    except (StateError, OSError, msgspec.DecodeError, ValueError, TypeError, IndexError) as exc:
        log.warning("the snapshot %s is discarded, its changelog is read from the start: %s", path, exc)
        path.unlink(missing_ok=True)
        store = PartitionStore()
    store.check_mutations = check_mutations
    return store


def _load(file: BinaryIO, changelog: str, partition: int) -> PartitionStore:
    if file.read(len(MAGIC)) != MAGIC:
        raise StateError("it is no snapshot of this version")
    store = PartitionStore()
    blocks = _blocks(file)
    its_changelog, its_partition, store.origin, store.resume_offset, store.saved_ms = next(blocks)
    if (its_changelog, its_partition) != (changelog, partition):
        raise StateError(f"it is of {its_changelog}[{its_partition}]")
    rows = 0
    for block in blocks:
        if block[0] == "w":
            _, name, keys, values = block
            store.states.setdefault(name, ColdRows()).whole.update(zip(keys, values, strict=True))
            rows += len(keys)
        elif block[0] == "p":
            _, name, parts = block
            cold = store.states.setdefault(name, ColdRows())
            for at in range(0, len(parts), 3):
                cold.parts.setdefault(parts[at], {})[parts[at + 1]] = parts[at + 2]
            rows += len(parts) // 3
        else:
            _, its_rows, store.next_offset, markers = block
            if rows != its_rows or file.read(1):
                raise StateError(f"it has {rows} rows instead of {its_rows}, or something behind its end")
            for key, value in markers.items():
                store.read_meta(key, value)
            return store
    raise StateError("it ends early")


def _blocks(file: BinaryIO) -> Iterator[Any]:
    while head := file.read(8):
        if len(head) < 8:
            raise StateError("it ends within a block")
        size, checksum = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
        raw = file.read(size)
        if len(raw) < size or zlib.crc32(raw) != checksum:
            raise StateError("a block of it is damaged")
        yield _decode(raw)
    raise StateError("it ends early")


def too_old(saved_ms: Millis, now_ms: Millis) -> bool:
    """Whether a local copy is older than the tombstones that its changelog's tail must still have."""
    return not 0 <= now_ms - saved_ms <= millis(MAX_AGE)


class SnapshottingStore(PartitionStore):
    """A store in memory that writes a snapshot of itself now and then, between the parts that pass through it.

    ``elsewhere`` runs a blocking function away from the loop (``publish`` syncs the disk).  An operator whose state cannot be given out
    whole, or a disk that refuses, costs a warning and the snapshot, never the operator.
    """

    def __init__(
        self,
        loaded: PartitionStore,
        path: Path,
        *,
        changelog: str,
        partition: int,
        interval: timedelta,
        clock: Clock,
        elsewhere: Callable[[Callable[[], None]], object],
    ) -> None:
        super().__init__(check_mutations=loaded.check_mutations)
        self.states, self.markers, self.origin = loaded.states, loaded.markers, loaded.origin
        self.next_offset, self.resume_offset, self.saved_ms = loaded.next_offset, loaded.resume_offset, loaded.saved_ms
        self.path = path
        self._changelog = changelog
        self._partition = partition
        self._interval_ms = millis(interval)
        self._clock = clock
        self._elsewhere = elsewhere
        self._writer: SnapshotWriter | None = None
        self._next_ms = clock.now_ms() + self._interval_ms
        #: snapshots published since the store was opened
        self.published = 0

    def seal(self, rows: Sequence[Row]) -> None:
        super().seal(rows)
        if self._writer is not None:
            self._step(self._writer, KEYS_PER_STEP)
        elif self._clock.now_ms() >= self._next_ms:
            self._next_ms = self._clock.now_ms() + self._interval_ms
            self._begin()

    def committed(self, rows: Sequence[Row], next_offset: int) -> None:
        super().committed(rows, next_offset)
        writer = self._writer
        if writer is not None and writer.ready():
            self._writer = None
            self._elsewhere(lambda: self._publish(writer))

    def begin_last(self) -> SnapshotWriter | None:
        """A writer of everything, at a stop; ``None`` while memory and changelog do not say the same, or nothing was ever written."""
        self.abort()
        if self.sealed_parts != self.committed_parts or not is_clean(self) or not self.next_offset:
            return None
        self._begin()
        writer, self._writer = self._writer, None
        return writer

    def abort(self) -> None:
        """Give up the snapshot in hand."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()

    def close(self) -> None:
        self.abort()

    def _begin(self) -> None:
        try:
            self._writer = SnapshotWriter(
                self, self.path, changelog=self._changelog, partition=self._partition, now_ms=self._clock.now_ms()
            )
        except (StateError, OSError) as exc:
            log.warning("no snapshot of %s[%d]: %s", self._changelog, self._partition, exc)

    def _step(self, writer: SnapshotWriter, keys: int) -> None:
        try:
            writer.step(keys)
        except OSError as exc:
            log.warning("no snapshot of %s[%d]: %s", self._changelog, self._partition, exc)
            self.abort()

    def _publish(self, writer: SnapshotWriter) -> None:
        try:
            writer.publish()
        except OSError as exc:
            log.warning("no snapshot of %s[%d]: %s", self._changelog, self._partition, exc)
            writer.abort()
        else:
            self.published += 1
