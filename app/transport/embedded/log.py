"""Topics, records and offsets in the file: everything that is asked of it, synchronously, over one connection."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from app.transport.embedded.files import PARTITION_TABLE
from app.transport.embedded.records import Record, checksum, decode, rows
from models.errors import Fenced, LogCorrupt, LogError, UnknownTopic
from models.time import Millis
from tables.log import TopicPartition

#: Kafka's rule for topic names.
TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
MAX_PARTITIONS = 1024
#: Options that the cleaner reads, and their values.
NUMBERS = {"retention.ms": r"-1|\d{1,18}", "retention.bytes": r"-1|\d{1,18}", "delete.retention.ms": r"\d{1,18}"}


class Topic(NamedTuple):
    """A topic.  ``partitions`` are the row ids of its partitions, in order; ``uid`` survives nothing but this topic."""

    name: str
    uid: str
    config: dict[str, str]
    partitions: tuple[int, ...]


class Bounds(NamedTuple):
    """First offset that is still there and the offset after the last record."""

    start: int
    end: int


class Fetched(NamedTuple):
    """Consecutive records of one partition, where to go on, and the bytes they take in the file."""

    records: list[Record]
    next_offset: int
    size: int


class Log:
    """Reads over one connection, used by one thread at a time."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def topics(self) -> dict[str, Topic]:
        partitions: dict[int, list[int]] = {}
        for topic, row_id in self.db.execute("SELECT topic, id FROM partitions ORDER BY topic, partition"):
            partitions.setdefault(topic, []).append(row_id)
        return {
            name: Topic(name, uid, json.loads(config), tuple(partitions.get(row_id, ())))
            for row_id, name, uid, config in self.db.execute("SELECT id, name, uid, config FROM topics")
        }

    def bounds(self) -> dict[int, Bounds]:
        """Offsets of every partition, by row id."""
        return {
            row_id: Bounds(start, end)
            for row_id, start, end in self.db.execute("SELECT id, start_offset, next_offset FROM partitions")
        }

    def committed(self, group_id: str) -> dict[TopicPartition, int]:
        return {
            TopicPartition(topic, partition): offset
            for topic, partition, offset in self.db.execute(
                "SELECT topic, partition, next_offset FROM positions WHERE group_id = ?", (group_id,)
            )
        }

    def fetch(self, row_id: int, offset: int, *, max_records: int, max_bytes: int) -> Fetched:
        """Records from ``offset`` on: whole rows within the bounds, but at least one row if there is any.

        An offset outside the partition (its records expired, or the log was replaced) means the first one.
        """
        self.db.execute("BEGIN")
        try:
            return self._fetch(row_id, offset, max_records, max_bytes)
        finally:
            self.db.execute("COMMIT")

    def _fetch(self, row_id: int, offset: int, max_records: int, max_bytes: int) -> Fetched:
        start, end = self.db.execute(
            "SELECT start_offset, next_offset FROM partitions WHERE id = ?", (row_id,)
        ).fetchone()
        if not start <= offset <= end:
            offset = start
        # Which rows fit is found out first: a blob that was read only to be left for the next time costs as much as one used.
        first, count, size = None, 0, 0
        for base, following, records, length in self.db.execute(
            f"SELECT base, next, count, length(records) FROM log_{row_id} WHERE base >= "
            f"coalesce((SELECT max(base) FROM log_{row_id} WHERE base <= ?), 0) ORDER BY base",
            (offset,),
        ):
            if following <= offset:
                continue
            if first is None:
                first = base
            elif count + records > max_records or size + length > max_bytes:
                end = base
                break
            count += records
            size += length
        fetched: list[Record] = []
        if first is not None:
            for base, crc, blob in self.db.execute(
                f"SELECT base, crc, records FROM log_{row_id} WHERE base >= ? AND base < ? ORDER BY base", (first, end)
            ):
                part = unpack(blob, crc, row_id, base)
                if base < offset:
                    part = [record for record in part if record.offset >= offset]
                fetched += part
        return Fetched(fetched, end, size)


def unpack(blob: bytes, crc: int, row_id: int, base: int) -> list[Record]:
    """Records of a row; raises :class:`models.errors.LogCorrupt` when the bytes are not those written."""
    try:
        if checksum(blob) == crc:
            return decode(blob)
    except msgspec.MsgspecError:
        pass
    raise LogCorrupt(
        f"the records of partition table log_{row_id} at offset {base} are damaged; "
        "stop every process that uses the log and restore it from a copy"
    )


class Transaction(Log):
    """Changes that become durable together or not at all.  Made by the writer only, inside its SQLite transaction."""

    def __init__(self, db: sqlite3.Connection, now_ms: Millis) -> None:
        super().__init__(db)
        self.now_ms = now_ms
        #: end offsets by row id of the partitions that grew
        self.ends: dict[int, int] = {}
        #: bytes put into the file
        self.size = 0

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str]) -> bool:
        """``True`` if the topic was missing; an existing one stays as it is."""
        if not TOPIC_NAME.fullmatch(name) or name in {".", ".."}:
            raise LogError(f"{name!r} cannot be a topic: use up to 249 of a-z, A-Z, 0-9, '.', '_' and '-'")
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise LogError(f"{name}: {partitions} partitions; use 1 to {MAX_PARTITIONS}")
        validate(name, config)
        execute = self.db.execute
        if execute("SELECT 1 FROM topics WHERE name = ?", (name,)).fetchone():
            return False
        topic = execute(
            "INSERT INTO topics(name, uid, config) VALUES(?, ?, ?)",
            (name, secrets.token_hex(8), json.dumps(dict(config))),
        ).lastrowid
        for partition in range(partitions):
            row_id = execute("INSERT INTO partitions(topic, partition) VALUES(?, ?)", (topic, partition)).lastrowid
            execute(PARTITION_TABLE.format(id=row_id))
        return True

    def append(self, tp: TopicPartition, records: Sequence[Record]) -> int:
        """Append records, giving them their offsets; returns the partition's next offset."""
        found = self.db.execute(
            "SELECT p.id, p.next_offset FROM partitions p JOIN topics t ON t.id = p.topic "
            "WHERE t.name = ? AND p.partition = ?",
            tp,
        ).fetchone()
        if found is None:
            raise unknown(tp, self.topics())
        row_id, offset = int(found[0]), int(found[1])
        insert = f"INSERT INTO log_{row_id} VALUES(?, ?, ?, ?, ?, ?)"
        for number, record in enumerate(records, offset):
            record.offset = number
        for part, blob in rows(records):
            following = offset + len(part)
            self.db.execute(insert, (offset, following, len(part), self.now_ms, checksum(blob), blob))
            self.size += len(blob)
            offset = following
        self.db.execute("UPDATE partitions SET next_offset = ? WHERE id = ?", (offset, row_id))
        self.ends[row_id] = offset
        return offset

    def commit_positions(self, group_id: str, positions: Iterable[tuple[TopicPartition, int]]) -> None:
        self.db.executemany(
            "INSERT INTO positions VALUES(?, ?, ?, ?) "
            "ON CONFLICT(group_id, topic, partition) DO UPDATE SET next_offset = excluded.next_offset",
            [(group_id, tp[0], tp[1], offset) for tp, offset in positions],
        )

    def begin_generation(self, app_id: str) -> int:
        """Take over an application's work: whoever held an earlier generation is fenced from now on."""
        self.db.execute(
            "INSERT INTO workers VALUES(?, 1) ON CONFLICT(app_id) DO UPDATE SET generation = generation + 1", (app_id,)
        )
        return self._generation(app_id)

    def require_generation(self, app_id: str, generation: int) -> None:
        """Raises :class:`models.errors.Fenced` when another worker has taken over."""
        current = self._generation(app_id)
        if current != generation:
            raise Fenced(
                f"another worker has taken over application {app_id!r} (generation {current}, this one holds {generation}); "
                "this process must end; start it again to join as a spare"
            )

    def _generation(self, app_id: str) -> int:
        row = self.db.execute("SELECT generation FROM workers WHERE app_id = ?", (app_id,)).fetchone()
        return int(row[0]) if row else 0


def unknown(tp: TopicPartition, topics: Mapping[str, Topic]) -> UnknownTopic:
    topic = topics.get(tp.topic)
    if topic is None:
        return UnknownTopic(f"topic {tp.topic!r} does not exist; `famulus topics` lists those that do")
    return UnknownTopic(f"topic {tp.topic!r} has {len(topic.partitions)} partitions, none with number {tp.partition}")


def validate(name: str, config: Mapping[str, str]) -> None:
    """Refuse what the cleaner could not follow; names that only a cluster needs (replication) are kept and ignored."""
    policies = set(config.get("cleanup.policy", "delete").split(","))
    if not policies <= {"delete", "compact"}:
        raise LogError(f"{name}: cleanup.policy {config['cleanup.policy']!r}; use delete, compact or both with a comma")
    for option, pattern in NUMBERS.items():
        value = config.get(option)
        if value is not None and not re.fullmatch(pattern, value):
            raise LogError(
                f"{name}: {option} {value!r}; use a whole number{', or -1 for no limit' * ('-1' in pattern)}"
            )
