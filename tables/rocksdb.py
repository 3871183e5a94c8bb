"""The store on disk: RocksDB below the handles, for state beyond memory.

It holds committed rows only.  The rows of a part, its markers and the changelog offset are one write batch, written after the part is
durable; so the store is never ahead of the changelog, and a crash leaves it at some part's end.  From there on a restart reads the
changelog.  Frozen rows that are not committed yet wait in memory, above the stored ones.  The handles' values are a cache, cut back when
a part is sealed.

Keys   state row  state name + 00 + length of user key (4 bytes, big endian) + user key + part
       meta row   as in the changelog (00 + ...), and 00 + "position"
Values as in the changelog; position = MessagePack [offset after the last part, offset before it, wall clock in ms]

The length in front keeps a key's rows together and apart from those of longer keys.

A damaged database is moved aside and rebuilt from the changelog.  Reading a damaged block marks the folder, so that the restart
that follows begins with an empty one.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBatch,
)

from models.errors import StateError, StateUnavailable
from models.time import Clock, SystemClock
from tables.changelog import META_PREFIX, NO_PART, ORIGIN_KEY, SEPARATOR, Row, part_suffix, split_row_key
from tables.log import Record
from tables.store import KeyRows, LiveRows, StoreMeta

log = logging.getLogger(__name__)

POSITION_KEY = b"\x00position"
#: Written into a folder whose database must not be opened again.
DAMAGED = "DAMAGED"
#: Keys read at a time while listing, so that no iterator pins old files for long.
LISTED_AT_ONCE = 1000

#: What must hold of an open database, in the names of RocksDB's own OPTIONS file.  A database opened with other options than these
#: would lose rows at a crash or read damaged ones as good.
REQUIRED_OPTIONS = {
    "wal_recovery_mode": "kPointInTimeRecovery",
    "paranoid_checks": "true",
    "verify_sst_unique_id_in_manifest": "true",
    "checksum": "kXXH3",
    "filter_policy": "bloomfilter",
    "compression": "kLZ4Compression",
    "inplace_update_support": "false",
    "comparator": "leveldb.BytewiseComparator",
}

_encode = msgspec.msgpack.Encoder().encode
_decode_position = msgspec.msgpack.Decoder(tuple[int, int, int]).decode


class RocksStore(StoreMeta):
    """The store of one operator's partition in a folder of its own (see :class:`tables.store.StateStore`).

    ``cached_keys``: values that each handle keeps in memory, besides those of the part in hand.  Raises
    :class:`models.errors.StateUnavailable` while another process has the folder open.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cached_keys: int = 50_000,
        block_cache_bytes: int = 32 << 20,
        write_buffer_bytes: int = 16 << 20,
        clock: Clock = SystemClock(),  # noqa: B008  (frozen)
        check_mutations: bool = False,
    ) -> None:
        super().__init__(check_mutations=check_mutations)
        self.folder = folder
        self.cached_keys = cached_keys
        self._block_cache_bytes = block_cache_bytes
        self._write_buffer_bytes = write_buffer_bytes
        self._clock = clock
        self._states: dict[str, RocksRows] = {}
        #: sequence numbers of the newest row sealed and of the newest one committed
        self._sealed = 0
        self._committed = 0
        self._db = self._open()
        self._read_position()

    def rows(self, state: str) -> RocksRows:
        found = self._states.get(state)
        if found is None:
            found = self._states[state] = RocksRows(self, state)
        return found

    # -- rows come in

    def apply(self, records: Iterable[Record], next_offset: int) -> None:
        rows: list[Row] = []
        resume_offset = self.resume_offset
        for record in records:
            key, value = record.key, record.value
            if key is None:
                continue
            if key.startswith(META_PREFIX):
                self.read_meta(key, value)
                if key == ORIGIN_KEY:
                    resume_offset = record.offset
            rows.append((key, value))
        self._write(rows, next_offset, resume_offset)

    def seal(self, rows: Sequence[Row]) -> None:
        for key, value in rows:
            if key.startswith(META_PREFIX):
                continue
            self._sealed += 1
            name, user_key, part = split_row_key(key)
            self.rows(name.decode("ascii")).waiting.setdefault(user_key, {})[part] = self._sealed, value
        for state in self._states.values():
            if state.live is not None and state.live.is_clean():
                state.live.trim(self.cached_keys)

    def committed(self, rows: Sequence[Row], next_offset: int) -> None:
        self._write(rows, next_offset, self.next_offset)
        for key, value in rows:
            if key.startswith(META_PREFIX):
                self.read_meta(key, value)
                continue
            self._committed += 1
            name, user_key, part = split_row_key(key)
            waiting = self.rows(name.decode("ascii")).waiting
            parts = waiting.get(user_key)
            # A later part may have written the row again: then that one is still waiting.
            if parts is not None and part in parts and parts[part][0] <= self._committed:
                del parts[part]
                if not parts:
                    del waiting[user_key]

    def _write(self, rows: Iterable[Row], next_offset: int, resume_offset: int) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in rows:
            stored = key if key.startswith(META_PREFIX) else _stored_key(key)
            if value is None:
                batch.delete(stored)
            else:
                batch.put(stored, value)
        saved_ms = self._clock.now_ms()
        batch.put(POSITION_KEY, _encode((next_offset, resume_offset, saved_ms)))
        try:
            self._db.write(batch)
        except Exception as exc:
            raise self.damaged(exc) from exc
        self.next_offset, self.resume_offset, self.saved_ms = next_offset, resume_offset, saved_ms

    # -- rows go out

    def get(self, key: bytes) -> bytes | None:
        """One stored row."""
        try:
            found: bytes | None = self._db.get(key)
        except Exception as exc:
            raise self.damaged(exc) from exc
        return found

    def scan(self, first: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Stored rows from ``first`` on that start with ``prefix``, in order, as of now."""
        try:
            iterator = self._db.iter()
            iterator.seek(first)
            while iterator.valid():
                key: bytes = iterator.key()
                if not key.startswith(prefix):
                    return
                yield key, iterator.value()
                iterator.next()
            iterator.status()
        except Exception as exc:
            raise self.damaged(exc) from exc

    def estimated_rows(self) -> int:
        return int(self._db.property_int_value("rocksdb.estimate-num-keys") or 0)

    def dump(self) -> Iterator[Row]:
        for key, value in self.scan(b"", b""):
            if not key.startswith(META_PREFIX):
                yield _changelog_key(key), value

    # -- life

    def flush(self) -> None:
        """Write what is in RocksDB's memory into its files."""
        self._db.flush()

    def close(self) -> None:
        self._db.close()

    def reset(self) -> None:
        self._db.close()
        shutil.rmtree(self.folder)
        self._states.clear()
        self.clear_meta()
        self._db = self._open()

    def damaged(self, exc: BaseException) -> BaseException:
        """What to raise for an error of RocksDB; the folder is not used again if it is damaged."""
        if "Corruption" not in str(exc):
            return StateError(
                f"RocksDB in {self.folder} failed: {exc}; free the disk or correct its rights, then start again"
            )
        (self.folder / DAMAGED).write_text(str(exc))
        return StateError(f"RocksDB in {self.folder} is damaged: {exc}; the next start rebuilds it from the changelog")

    def _open(self) -> Any:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if (self.folder / DAMAGED).exists():
            self._set_aside("it was found damaged")
        try:
            database = self._connect()
        except Exception as exc:
            if "lock" in str(exc).lower():
                raise StateUnavailable(
                    f"another process has {self.folder} open; stop it, or give each worker a FAMULUS_DATA_DIR of its own"
                ) from exc
            self._set_aside(str(exc))
            database = self._connect()
        try:
            assert_options(self.folder)
        except StateError:
            database.close()
            raise
        return database

    def _connect(self) -> Any:
        options = self._options()
        # The default column family by name: otherwise its table options are forgotten when a database is opened again.
        return Rdict(str(self.folder), options, column_families={"default": options})

    def _set_aside(self, reason: str) -> None:
        aside = self.folder.with_name(self.folder.name + ".damaged")
        if aside.exists():
            shutil.rmtree(aside)
        if self.folder.exists():
            self.folder.rename(aside)
            (aside / DAMAGED).unlink(missing_ok=True)
        log.warning("%s is rebuilt from the changelog: %s; what was there is in %s", self.folder, reason, aside)

    def _options(self) -> Options:
        options = Options(raw_mode=True)  # bytes only: anything else would be pickled
        options.create_if_missing(True)
        options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
        options.set_paranoid_checks(True)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_write_buffer_size(self._write_buffer_bytes)
        options.set_max_open_files(256)
        options.set_keep_log_file_num(2)
        options.set_max_total_wal_size(4 * self._write_buffer_bytes)
        table = BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_block_cache(Cache(self._block_cache_bytes))
        options.set_block_based_table_factory(table)
        return options

    def _read_position(self) -> None:
        try:
            position = self.get(POSITION_KEY)
            if position is not None:
                self.next_offset, self.resume_offset, self.saved_ms = _decode_position(position)
                for key, value in self.scan(META_PREFIX, META_PREFIX):
                    self.read_meta(key, value)
        except (StateError, msgspec.DecodeError) as exc:
            self._db.close()
            self._set_aside(str(exc))
            self.clear_meta()
            self._db = self._open()


class RocksRows:
    """Rows of one state (see :class:`tables.store.StoredRows`)."""

    __slots__ = ("_prefix", "_store", "live", "waiting")

    def __init__(self, store: RocksStore, state: str) -> None:
        self._store = store
        self._prefix = state.encode("ascii") + SEPARATOR
        #: rows sealed and not committed: user key -> part -> (sequence number, value)
        self.waiting: dict[bytes, dict[bytes, tuple[int, bytes | None]]] = {}
        self.live: LiveRows | None = None

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return self._store.estimated_rows()

    def _start(self, key: bytes) -> bytes:
        return self._prefix + len(key).to_bytes(4, "big") + key

    def take(self, key: bytes) -> KeyRows:
        start = self._start(key)
        size = len(start)
        rows = {stored[size:]: value for stored, value in self._store.scan(start, start)}
        for part, (_, value) in self.waiting.get(key, _NOTHING).items():
            if value is None:
                rows.pop(part, None)
            else:
                rows[part] = value
        whole = rows.pop(b"", None)
        return whole, rows or None

    look = take

    def take_whole(self, key: bytes) -> bytes | None:
        waiting = self.waiting.get(key, _NOTHING).get(b"")
        return self._store.get(self._start(key)) if waiting is None else waiting[1]

    def drop(self, key: bytes) -> None:
        """The row that replaces them is coming."""

    def all_keys(self) -> Iterator[bytes]:
        before = set(self.waiting)
        for key in before:
            whole, parts = self.look(key)
            if whole is not None or parts:
                yield key
        first = self._prefix
        while True:
            keys: list[bytes] = []
            for stored, _ in self._store.scan(first, self._prefix):
                key = _user_key(stored, len(self._prefix))
                if not keys or keys[-1] != key:
                    keys.append(key)
                    if len(keys) == LISTED_AT_ONCE:
                        break
            yield from (key for key in keys if key not in before and not self._gone(key))
            if len(keys) < LISTED_AT_ONCE:
                return
            first = _successor(self._start(keys[-1]))

    def _gone(self, key: bytes) -> bool:
        """Whether rows that wait to be committed remove all of a stored key."""
        return key in self.waiting and self.look(key) == (None, None)

    def attach(self, live: LiveRows) -> None:
        self.live = live


_NOTHING: Mapping[bytes, tuple[int, bytes | None]] = {}


def assert_options(folder: Path) -> None:
    """Raise :class:`models.errors.StateError` if the database runs with other options than it must."""
    newest = max(folder.glob("OPTIONS-*"), default=None)
    if newest is None:
        raise StateError(f"RocksDB in {folder} wrote no OPTIONS file; is the disk full?")
    found = {}
    for line in newest.read_text().splitlines():
        name, separator, value = line.strip().partition("=")
        if separator:
            found[name] = value
    wrong = [
        f"{name}={found.get(name)} instead of {value}"
        for name, value in REQUIRED_OPTIONS.items()
        if found.get(name) != value
    ]
    if wrong:
        raise StateError(
            f"RocksDB in {folder} runs with {', '.join(wrong)}; this version of rocksdict does not fit, install the one that setup.cfg names"
        )


def _stored_key(row: bytes) -> bytes:
    name, key, part = split_row_key(row)
    return name + SEPARATOR + len(key).to_bytes(4, "big") + key + part


def _changelog_key(stored: bytes) -> bytes:
    name, _, rest = stored.partition(SEPARATOR)
    end = 4 + int.from_bytes(rest[:4], "big")
    part = rest[end:]
    return name + SEPARATOR + rest[4:end] + (part_suffix(part) if part else NO_PART)


def _user_key(stored: bytes, prefix: int) -> bytes:
    start = prefix + 4
    return stored[start : start + int.from_bytes(stored[prefix:start], "big")]


def _successor(key: bytes) -> bytes:
    """The lowest key that is above all keys starting with ``key``."""
    end = key.rstrip(b"\xff")
    return end[:-1] + bytes([end[-1] + 1])


__all__ = ["RocksStore", "assert_options"]
