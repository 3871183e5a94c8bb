"""The SQLite file: opening it, its schema, and what its errors mean to a person."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from app.transport.embedded.location import Location
from models.errors import LogCorrupt, LogError, LogUnavailable

#: "Famu": tells this file from another program's database.
APPLICATION_ID = 0x46616D75
#: Raised whenever the tables change.
SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE topics(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    uid TEXT NOT NULL,              -- tells a topic from an earlier one of the same name
    config TEXT NOT NULL            -- JSON, Kafka's names
);
CREATE TABLE partitions(
    id INTEGER PRIMARY KEY,         -- records are in table log_<id>
    topic INTEGER NOT NULL REFERENCES topics(id),
    partition INTEGER NOT NULL,
    start_offset INTEGER NOT NULL DEFAULT 0,
    next_offset INTEGER NOT NULL DEFAULT 0,
    clean_offset INTEGER NOT NULL DEFAULT 0,    -- compacted up to here
    UNIQUE(topic, partition)
);
CREATE TABLE positions(             -- committed offsets of consumer groups
    group_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY(group_id, topic, partition)
) WITHOUT ROWID;
CREATE TABLE workers(               -- who may commit for an application
    app_id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL
) WITHOUT ROWID;
"""

#: Records of one partition, a row per batch.  ``written_ms`` is this machine's clock: retention and the life of tombstones
#: go by it, because record timestamps are event times and may be years old.  ``records`` comes last: the other columns are
#: then read without touching the blob's overflow pages.
PARTITION_TABLE = """
CREATE TABLE log_{id}(
    base INTEGER PRIMARY KEY,       -- offset of the first record the row ever held
    next INTEGER NOT NULL,          -- offset after the last one
    count INTEGER NOT NULL,
    written_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    records BLOB NOT NULL
)"""


def open_log(location: Location, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the log; creates directory, file and schema where they are missing.

    The connection may be handed between threads but used by one at a time.  Raises :class:`models.errors.LogUnavailable`
    or :class:`models.errors.LogCorrupt`.
    """
    with explained(location.file):
        if not read_only:
            location.directory.mkdir(parents=True, exist_ok=True)
        uri = f"file:{quote(str(location.file))}?mode={'rw' if read_only else 'rwc'}"
        db = sqlite3.connect(
            uri, uri=True, timeout=30.0, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        try:
            # Creating and switching to WAL race between processes that start together.
            with locked(location.directory / "create.lock"):
                _prepare(db, location)
            if read_only:
                db.execute("PRAGMA query_only = ON")
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, location: Location) -> None:
    application_id, version, tables = (
        db.execute(sql).fetchone()[0]
        for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    fresh = not application_id and not tables
    if not fresh and application_id != APPLICATION_ID:
        raise LogUnavailable(
            f"{location.file} is a database, but not a Famulus log; point FAMULUS_BROKER at another directory"
        )
    if not fresh and version > SCHEMA_VERSION:
        raise LogUnavailable(
            f"{location.file} was written by a newer Famulus (log format {version}, this one knows {SCHEMA_VERSION}); "
            "start that version, or point FAMULUS_BROKER at another directory"
        )
    if not fresh and version < SCHEMA_VERSION:
        raise LogUnavailable(
            f"{location.file} was written by an older Famulus (log format {version}, this one needs {SCHEMA_VERSION}); "
            "export its topics with that version's `famulus read` and load them into a new directory"
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {location.synchronous.value}")
    # The writer checkpoints on its own terms, after it has answered (see writer.py).
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    # Some builds overwrite deleted rows with zeros, which doubles what retention writes.
    db.execute("PRAGMA secure_delete = OFF")
    if fresh:
        db.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel drops it when the process dies."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the file system into the project's, which say what to do."""
    try:
        yield
    except sqlite3.Error as exc:
        raise explain(exc, path) from exc
    except OSError as exc:
        raise LogUnavailable(
            f"{path}: {exc.strerror or exc}; check that the directory exists and that this user may write to it"
        ) from exc


def explain(exc: sqlite3.Error, path: Path) -> LogError:
    """What a SQLite error means for the log at ``path``."""
    name = getattr(exc, "sqlite_errorname", None) or ""
    if name.startswith("SQLITE_FULL"):
        return LogUnavailable(
            f"{path}: the disk is full; free some space and try again (nothing of this write is stored)"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return LogCorrupt(f"{path} is damaged ({exc}); stop every process that uses it and restore it from a copy")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return LogUnavailable(f"{path}: {exc}; make the file and its directory writable for this user")
    if name.startswith("SQLITE_BUSY"):
        return LogUnavailable(f"{path} has been locked by another process for 30 s; find it (fuser {path}) and end it")
    if name.startswith("SQLITE_IOERR"):
        return LogUnavailable(f"{path}: {exc} ({name}); check the disk and its free space and quota, then try again")
    return LogError(f"{path}: {exc}")
