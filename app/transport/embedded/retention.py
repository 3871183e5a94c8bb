"""Retention of ``delete`` topics: rows whose time or whose place in the size limit is over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from app.transport.embedded.log import Log, Transaction
from app.transport.embedded.pace import Pace
from models.time import Millis, millis

#: Kafka's default for ``retention.ms``.
RETENTION = timedelta(days=7)
NO_LIMIT = -1
#: Rows deleted in one write transaction.
STEP = 64


def expire(log: Log, row_id: int, config: Mapping[str, str], now_ms: Millis, pace: Pace) -> None:
    """Delete rows from the front: those written before ``retention.ms``, and those beyond ``retention.bytes``.

    Age is counted from when the log took the record, not from the record's own timestamp: loading last year's data must
    not lose it at once.
    """
    first_kept = max(
        _kept_by_age(log, row_id, int(config.get("retention.ms", millis(RETENTION))), now_ms),
        _kept_by_size(log, row_id, int(config.get("retention.bytes", NO_LIMIT))),
    )
    while True:
        bases = [
            base
            for (base,) in log.db.execute(
                f"SELECT base FROM log_{row_id} WHERE base < ? ORDER BY base LIMIT {STEP}", (first_kept,)
            )
        ]
        if not bases:
            return
        pace.write(lambda transaction, last=bases[-1]: _delete(transaction, row_id, last))  # type: ignore[misc]
        pace.rest()


def _kept_by_age(log: Log, row_id: int, retention_ms: Millis, now_ms: Millis) -> int:
    if retention_ms == NO_LIMIT:
        return 0
    kept = log.db.execute(
        f"SELECT base FROM log_{row_id} WHERE written_ms >= ? ORDER BY base LIMIT 1", (now_ms - retention_ms,)
    ).fetchone()
    return int(kept[0]) if kept else _end(log, row_id)


def _kept_by_size(log: Log, row_id: int, retention_bytes: int) -> int:
    if retention_bytes == NO_LIMIT:
        return 0
    total = 0
    kept = _end(log, row_id)
    for base, size in log.db.execute(f"SELECT base, length(records) FROM log_{row_id} ORDER BY base DESC"):
        total += size
        if total > retention_bytes:
            break
        kept = base
    return kept


def _end(log: Log, row_id: int) -> int:
    return int(log.db.execute("SELECT next_offset FROM partitions WHERE id = ?", (row_id,)).fetchone()[0])


def _delete(transaction: Transaction, row_id: int, last_base: int) -> None:
    execute = transaction.db.execute
    execute(f"DELETE FROM log_{row_id} WHERE base <= ?", (last_base,))
    execute(
        "UPDATE partitions SET start_offset = coalesce("
        f"(SELECT min(base) FROM log_{row_id}), next_offset) WHERE id = ?",
        (row_id,),
    )
