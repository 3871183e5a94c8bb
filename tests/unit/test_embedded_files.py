"""What happens to a log file that is not as it should be, and what the person at the terminal reads then."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.transport.brokers import connect
from app.transport.client import NewRecord
from app.transport.embedded import files
from app.transport.embedded.location import Location
from models.errors import LogCorrupt, LogUnavailable
from tables.log import TopicPartition

ROOT = Path(__file__).parents[2]


async def fill(directory: Path, records: int = 10, size: int = 100) -> None:
    async with connect(f"embedded://{directory}") as client:
        await client.create_topic("t", 1)
        await client.append("t", [NewRecord(b"k", bytes(size))] * records)


async def read(directory: Path) -> int:
    async with connect(f"embedded://{directory}") as client:
        reader = client.reader()
        await reader.start()
        try:
            reader.assign({TopicPartition("t", 0): 0})
            return sum(len(part.records) for part in await reader.poll(5.0))
        finally:
            await reader.stop()


@contextmanager
def database(directory: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(directory / "log.sqlite3", isolation_level=None)
    try:
        yield db
    finally:
        db.close()


async def test_a_log_keeps_its_records_when_it_is_opened_again(tmp_path: Path) -> None:
    await fill(tmp_path)
    assert await read(tmp_path) == 10


async def test_a_topic_has_an_identity_that_no_other_log_gives(tmp_path: Path) -> None:
    uids = set()
    for name in ("a", "b"):
        await fill(tmp_path / name)
        with database(tmp_path / name) as db:
            uids.add(db.execute("SELECT uid FROM topics").fetchone()[0])
    assert len(uids) == 2


async def test_a_log_of_a_newer_version_is_refused_by_number(tmp_path: Path) -> None:
    await fill(tmp_path)
    with database(tmp_path) as db:
        db.execute(f"PRAGMA user_version = {files.SCHEMA_VERSION + 1}")
    with pytest.raises(LogUnavailable, match=f"newer Famulus .*{files.SCHEMA_VERSION + 1}.*{files.SCHEMA_VERSION}"):
        await read(tmp_path)


async def test_a_log_of_an_older_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    await fill(tmp_path)
    with database(tmp_path) as db:
        db.execute("PRAGMA user_version = 0")
    with pytest.raises(LogUnavailable, match=r"older Famulus .* export its topics"):
        await read(tmp_path)


async def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with database(tmp_path) as db:
        db.execute("CREATE TABLE bookmarks(url TEXT)")
    with pytest.raises(LogUnavailable, match="not a Famulus log"):
        await fill(tmp_path)
    with database(tmp_path) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("bookmarks",)]


async def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite3").write_text("shopping list\n" * 1000)
    with pytest.raises(LogCorrupt, match="restore it from a copy"):
        await fill(tmp_path)


async def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogUnavailable, match="check that the directory exists"):
        await fill(tmp_path / "file" / "log")


async def test_a_flipped_bit_in_records_is_found_and_named(tmp_path: Path) -> None:
    await fill(tmp_path)
    with database(tmp_path) as db:
        [(base, blob)] = db.execute("SELECT base, records FROM log_1").fetchall()
        damaged = bytearray(blob)
        damaged[blob.index(bytes(100)) + 50] ^= 1  # within a value: still well-formed
        db.execute("UPDATE log_1 SET records = ? WHERE base = ?", (bytes(damaged), base))
    with pytest.raises(LogCorrupt, match="log_1 at offset 0"):
        await read(tmp_path)


async def test_a_torn_page_is_found(tmp_path: Path) -> None:
    await fill(tmp_path, records=200, size=1000)
    with database(tmp_path) as db:
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'log_1'").fetchall()
        [(size,)] = db.execute("PRAGMA page_size").fetchall()
    with (tmp_path / "log.sqlite3").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xab" * size)
    with pytest.raises(LogCorrupt, match="damaged"):
        await read(tmp_path)


READ_ONLY = """
import asyncio, os, sys
from app.transport.brokers import connect
from app.transport.client import NewRecord
from app.transport.embedded import client  # while this user may still read it
from models.errors import LogUnavailable

async def main(directory):
    async with connect(f"embedded://{directory}") as client:
        await client.append("t", [NewRecord(b"k", b"v")])

if os.getuid() == 0:
    os.setuid(65534)
try:
    asyncio.run(main(sys.argv[1]))
except LogUnavailable as error:
    print(error)
"""


def test_a_directory_without_write_permission_says_so(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    asyncio.run(fill(directory))
    for folder in (directory, *directory.parents[:3]):
        folder.chmod(0o555 if folder == directory else 0o755)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(directory)], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    finally:
        directory.chmod(0o755)
    assert "Permission denied" in done.stdout, done
    assert "this user may write" in done.stdout, done


@pytest.mark.parametrize(
    ("name", "error", "advice"),
    [
        ("SQLITE_FULL", LogUnavailable, "free some space"),
        ("SQLITE_READONLY_DBMOVED", LogUnavailable, "writable"),
        ("SQLITE_BUSY", LogUnavailable, "locked by another process"),
        ("SQLITE_IOERR_WRITE", LogUnavailable, "check the disk"),
        ("SQLITE_CORRUPT_VTAB", LogCorrupt, "restore it from a copy"),
    ],
)
def test_errors_of_the_database_come_with_advice(name: str, error: type[Exception], advice: str) -> None:
    cause = sqlite3.OperationalError("it happened")
    cause.sqlite_errorname = name
    explained = files.explain(cause, Path("/srv/log.sqlite3"))
    assert type(explained) is error
    assert advice in str(explained)
    assert "/srv/log.sqlite3" in str(explained)


def test_opening_creates_the_directory_and_commits_wait_for_the_disk(tmp_path: Path) -> None:
    db = files.open_log(Location(tmp_path / "a" / "b"))
    try:
        settings = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    finally:
        db.close()
    assert settings == ["wal", 2]
