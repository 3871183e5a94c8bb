"""Group commit: many jobs, one write to disk, and no job pays for another's fault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.transport.embedded.location import Location, Synchronous
from app.transport.embedded.log import Log, Transaction
from app.transport.embedded.records import Record
from app.transport.embedded.writer import Writer
from models.errors import LogUnavailable, UnknownTopic
from tables.log import TopicPartition

DEADLINE = 20.0
TP = TopicPartition("t", 0)


class Announced:
    """What the writer told the readers."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}
        self.commits = 0

    def __call__(self, ends: Mapping[int, int]) -> None:
        self.ends.update(ends)
        self.commits += 1


@pytest.fixture
def announced() -> Announced:
    return Announced()


@pytest.fixture
def writer(tmp_path: Path, announced: Announced) -> Iterator[Writer]:
    opened = Writer(Location(tmp_path, Synchronous.OFF), announced)
    opened.submit(lambda tx: tx.create_topic("t", 1, {})).result(DEADLINE)
    yield opened
    opened.close()


def append(tx: Transaction, *values: bytes) -> int:
    return tx.append(TP, [Record(0, 0, b"k", value) for value in values])


def stored(writer: Writer) -> list[bytes | None]:
    def read(tx: Transaction) -> list[bytes | None]:
        return [record.value for record in Log(tx.db)._fetch(1, 0, 1000, 1 << 20).records]

    return writer.submit(read).result(DEADLINE)


@contextmanager
def busy(writer: Writer) -> Iterator[None]:
    """While this lasts the writer is inside a job, and everything else queues up."""
    began, go = threading.Event(), threading.Event()

    def work(tx: Transaction) -> None:
        began.set()
        go.wait(DEADLINE)

    future = writer.submit(work)
    assert began.wait(DEADLINE)
    yield
    go.set()
    future.result(DEADLINE)


def together(writer: Writer, *jobs: Callable[[Transaction], Any]) -> list[Future[Any]]:
    """Queue jobs while the writer is busy, so that they end up in one group."""
    with busy(writer):
        return [writer.submit(job) for job in jobs]


def test_jobs_that_queue_up_share_a_commit(writer: Writer, announced: Announced) -> None:
    futures = together(writer, *([lambda tx: append(tx, b"v")] * 10))
    assert [future.result(DEADLINE) for future in futures] == list(range(1, 11))
    stored(writer)
    assert announced.commits == 1
    assert announced.ends == {1: 10}


def test_a_job_that_fails_takes_back_only_its_own_changes(writer: Writer) -> None:
    def half(tx: Transaction) -> None:
        append(tx, b"never")
        tx.append(TopicPartition("gone", 0), [])

    before, failed, after = together(writer, lambda tx: append(tx, b"a"), half, lambda tx: append(tx, b"b"))
    assert before.result(DEADLINE) == 1
    with pytest.raises(UnknownTopic):
        failed.result(DEADLINE)
    assert after.result(DEADLINE) == 2
    assert stored(writer) == [b"a", b"b"]


def test_a_job_cancelled_before_its_turn_writes_nothing(writer: Writer) -> None:
    with busy(writer):
        waiting = writer.submit(lambda tx: append(tx, b"never"))
        assert waiting.cancel()
    assert stored(writer) == []


def test_background_work_gives_way(writer: Writer) -> None:
    order: list[str] = []
    with busy(writer):
        late = writer.submit_background(lambda tx: order.append("background"))
        soon = writer.submit(lambda tx: order.append("foreground"))
    for future in (soon, late):
        future.result(DEADLINE)
    assert order == ["foreground", "background"]


def test_a_full_disk_refuses_the_whole_group_and_later_writes_go_on(writer: Writer) -> None:
    assert writer.submit(lambda tx: append(tx, b"kept")).result(DEADLINE) == 1
    pages = writer._db.execute("PRAGMA page_count").fetchone()[0]
    writer._db.execute(f"PRAGMA max_page_count = {pages + 5}")
    small, large = together(writer, lambda tx: append(tx, b"small"), lambda tx: append(tx, bytes(1 << 20)))
    for future in (small, large):
        with pytest.raises(LogUnavailable, match="disk is full"):
            future.result(DEADLINE)
    assert stored(writer) == [b"kept"]
    writer._db.execute("PRAGMA max_page_count = 1000000")
    assert writer.submit(lambda tx: append(tx, b"again")).result(DEADLINE) == 2
    assert stored(writer) == [b"kept", b"again"]


def test_what_was_queued_is_written_before_the_writer_closes(tmp_path: Path, announced: Announced) -> None:
    writer = Writer(Location(tmp_path, Synchronous.OFF), announced)
    writer.submit(lambda tx: tx.create_topic("t", 1, {}))
    last = [writer.submit(lambda tx: append(tx, b"v")) for _ in range(200)][-1]
    writer.close()
    assert last.result(0) == 200
    with pytest.raises(LogUnavailable, match="closed"):
        writer.submit(lambda tx: append(tx, b"late"))


def test_the_write_ahead_log_does_not_grow_without_end(tmp_path: Path, writer: Writer) -> None:
    for _ in range(60):
        writer.submit(lambda tx: append(tx, bytes(1 << 20))).result(DEADLINE)
    stored(writer)
    assert (tmp_path / "log.sqlite3-wal").stat().st_size < 24 << 20
