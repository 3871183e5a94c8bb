"""Compaction of ``compact`` topics: of every key the last record stays, at its offset.

As Kafka's cleaner does it: the keys of the part not yet compacted go into a map of last offsets (bounded; a larger part
takes several rounds), then all rows below it are rewritten without the records that the map overrules.  Kept whatever the
map says: the partition's last record, so that who reads to the end offset gets there, records without a key, and tombstones
younger than ``delete.retention.ms``, so that a reader that has seen the key's value also sees it go.

Rows never change otherwise and appends only add rows after the part in hand, so all reading and deciding happens outside of
write transactions; each of those replaces a few rows and is short.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple

from app.transport.embedded.log import Log, Transaction, unpack
from app.transport.embedded.pace import Pace
from app.transport.embedded.records import ROW_BYTES, ROW_RECORDS, Keyed, Record, checksum, decode_keys, encode
from models.time import Millis, millis

#: Kafka's default for ``delete.retention.ms``.
DELETE_RETENTION = timedelta(hours=24)
#: Compact when at least this share of the bytes is not compacted yet (``min.cleanable.dirty.ratio``) ...
DIRTY_RATIO = 0.5
#: ... and it is worth the work.
DIRTY_RECORDS = 1000
#: Bounds of the map of last offsets.
MAP_KEYS = 500_000
MAP_BYTES = 64 << 20
#: Bytes of old rows that one write transaction replaces.
WINDOW_BYTES = 4 << 20


class Row(NamedTuple):
    base: int
    next: int
    records: int
    written_ms: Millis
    crc: int
    size: int


class Plan(NamedTuple):
    """Last offsets of the keys in the part to be compacted, and where that part ends."""

    latest: dict[bytes, int]
    end: int


def compact(
    log: Log, row_id: int, config: Mapping[str, str], now_ms: Millis, pace: Pace, *, force: bool = False
) -> int:
    """Compact a partition if it is worth it; returns the number of records dropped."""
    clean, end = log.db.execute("SELECT clean_offset, next_offset FROM partitions WHERE id = ?", (row_id,)).fetchone()
    if not force and (end - clean < DIRTY_RECORDS or not _worth_it(log.db, row_id, clean)):
        return 0
    plan = _plan(log.db, row_id, clean, end, pace)
    horizon_ms = now_ms - int(config.get("delete.retention.ms", millis(DELETE_RETENTION)))
    dropped = 0
    for window in _windows(log.db, row_id, plan.end, horizon_ms, now_ms - horizon_ms):
        before = sum(row.records for row in window)
        kept = _survivors(log.db, row_id, window, plan.latest, horizon_ms, end - 1, pace)
        if kept is not None:
            dropped += before - len(kept)
            pace.write(lambda transaction, window=window, kept=kept: _replace(transaction, row_id, window, kept))  # type: ignore[misc]
        pace.rest()
    pace.write(lambda transaction: _mark_clean(transaction, row_id, plan.end))
    return dropped


def _worth_it(db: sqlite3.Connection, row_id: int, clean: int) -> bool:
    total, dirty = db.execute(
        "SELECT coalesce(sum(length(records)), 0), coalesce(sum(length(records)) FILTER (WHERE base >= ?), 0) "
        f"FROM log_{row_id}",
        (clean,),
    ).fetchone()
    return bool(dirty >= DIRTY_RATIO * total)


def _rows(db: sqlite3.Connection, row_id: int, start: int, end: int) -> Iterator[Row]:
    """Rows with ``start <= base < end``, a page at a time: an open cursor would keep the write-ahead log from shrinking."""
    while True:
        page = db.execute(
            f"SELECT base, next, count, written_ms, crc, length(records) FROM log_{row_id} "
            "WHERE base >= ? AND base < ? ORDER BY base LIMIT 1000",
            (start, end),
        ).fetchall()
        if not page:
            return
        yield from (Row(*row) for row in page)
        start = page[-1][0] + 1


def _blob(db: sqlite3.Connection, row_id: int, base: int) -> bytes:
    return bytes(db.execute(f"SELECT records FROM log_{row_id} WHERE base = ?", (base,)).fetchone()[0])


def _plan(db: sqlite3.Connection, row_id: int, clean: int, end: int, pace: Pace) -> Plan:
    latest: dict[bytes, int] = {}
    size = 0
    planned = clean
    for row in _rows(db, row_id, clean, end):
        for record in _keys(_blob(db, row_id, row.base), row, row_id):
            if record.key is not None:
                if record.key not in latest:
                    size += len(record.key)
                latest[record.key] = record.offset
        planned = row.next
        if len(latest) >= MAP_KEYS or size >= MAP_BYTES:
            break
        pace.rest()
    return Plan(latest, planned)


def _keys(blob: bytes, row: Row, row_id: int) -> list[Keyed]:
    if checksum(blob) != row.crc:
        unpack(blob, row.crc, row_id, row.base)
    return decode_keys(blob)


def _windows(
    db: sqlite3.Connection, row_id: int, end: int, horizon_ms: Millis, retention_ms: Millis
) -> Iterator[list[Row]]:
    """Runs of adjacent rows that are rewritten together: small ones are merged.

    Rows that may hold young tombstones merge only with rows of the same hour (for a retention of a day), because the
    merged row takes the youngest one's age and the tombstones in it would otherwise live for ever.
    """
    hour_ms = max(1, retention_ms // 24)
    window: list[Row] = []
    records = size = 0
    for row in _rows(db, row_id, 0, end):
        young = row.written_ms >= horizon_ms
        if window and (
            size + row.size > WINDOW_BYTES
            or (young and row.written_ms // hour_ms != window[-1].written_ms // hour_ms)
            or records + row.records > 4 * ROW_RECORDS
        ):
            yield window
            window, records, size = [], 0, 0
        window.append(row)
        records += row.records
        size += row.size
    if window:
        yield window


def _survivors(
    db: sqlite3.Connection,
    row_id: int,
    window: list[Row],
    latest: Mapping[bytes, int],
    horizon_ms: Millis,
    last_offset: int,
    pace: Pace,
) -> list[Record] | None:
    """Records of the window that stay; ``None`` when the window is fine as it is."""
    kept: list[Record] = []
    for row in window:
        expired = row.written_ms < horizon_ms
        for record in unpack(_blob(db, row_id, row.base), row.crc, row_id, row.base):
            overruled = record.key is not None and (
                latest.get(record.key, -1) > record.offset or (record.value is None and expired)
            )
            if not overruled or record.offset == last_offset:
                kept.append(record)
        pace.rest()
    full = len(kept) == sum(row.records for row in window)
    return None if full and (len(window) == 1 or len(kept) >= ROW_RECORDS) else kept


def _replace(transaction: Transaction, row_id: int, window: list[Row], kept: list[Record]) -> None:
    """Put the surviving records in place of the window's rows."""
    execute = transaction.db.execute
    first, last = window[0].base, window[-1].base
    written_ms = max(row.written_ms for row in window)
    execute(f"DELETE FROM log_{row_id} WHERE base >= ? AND base <= ?", (first, last))
    base = first
    while kept:
        part = kept[:ROW_RECORDS]
        blob = encode(part)
        while len(blob) > ROW_BYTES and len(part) > 1:
            part = part[: len(part) // 2]
            blob = encode(part)
        kept = kept[len(part) :]
        following = kept[0].offset if kept else window[-1].next
        execute(
            f"INSERT INTO log_{row_id} VALUES(?, ?, ?, ?, ?, ?)",
            (base, following, len(part), written_ms, checksum(blob), blob),
        )
        transaction.size += len(blob)
        base = following


def _mark_clean(transaction: Transaction, row_id: int, end: int) -> None:
    transaction.db.execute("UPDATE partitions SET clean_offset = ? WHERE id = ?", (end, row_id))
