"""Compaction and retention: what goes, and what must stay."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.transport.embedded import compaction, records, retention
from app.transport.embedded.files import open_log
from app.transport.embedded.location import Location, Synchronous
from app.transport.embedded.log import Log
from app.transport.embedded.maintenance import Maintenance
from app.transport.embedded.pace import Pace
from app.transport.embedded.records import Record
from app.transport.embedded.writer import Writer
from models.time import ManualClock, millis
from tables.log import TopicPartition

DEADLINE = 20.0
TP = TopicPartition("t", 0)
DAY = timedelta(days=1)


class Bench:
    """A log with one partition and a clock that moves when told to."""

    def __init__(self, directory: Path, **config: str) -> None:
        self.location = Location(directory, Synchronous.OFF)
        self.clock = ManualClock()
        self.writer = Writer(self.location, lambda ends: None, self.clock)
        self.config = {name.replace("_", "."): value for name, value in config.items()}
        self.writer.submit(lambda tx: tx.create_topic("t", 1, self.config)).result(DEADLINE)
        self.log = Log(open_log(self.location, read_only=True))
        self.pace = Pace(self.writer, threading.Event())

    def append(self, *pairs: tuple[bytes | None, bytes | None]) -> int:
        batch = [Record(0, 0, key, value) for key, value in pairs]
        return self.writer.submit(lambda tx: tx.append(TP, batch)).result(DEADLINE)

    def compact(self) -> int:
        return compaction.compact(self.log, 1, self.config, self.clock.now_ms(), self.pace, force=True)

    def expire(self) -> None:
        retention.expire(self.log, 1, self.config, self.clock.now_ms(), self.pace)

    def read(self, start: int = 0) -> list[Record]:
        """All records from an offset on, fetched in small steps."""
        found: list[Record] = []
        end = self.log.bounds()[1].end
        while start < end:
            part = self.log.fetch(1, start, max_records=3, max_bytes=1 << 20)
            assert part.next_offset > start
            found += part.records
            start = part.next_offset
        return found

    def offsets(self) -> list[int]:
        return [record.offset for record in self.read()]

    def rows(self) -> int:
        return int(self.log.db.execute("SELECT count(*) FROM log_1").fetchone()[0])

    def close(self) -> None:
        self.log.db.close()
        self.writer.close()


@contextmanager
def opened(directory: Path, **config: str) -> Iterator[Bench]:
    bench = Bench(directory, **config)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(tmp_path, cleanup_policy="compact") as made:
        yield made


def folded(found: Sequence[Record]) -> dict[bytes, bytes]:
    """The table that a reader builds from records."""
    table: dict[bytes, bytes] = {}
    for record in found:
        if record.key is None:
            continue
        if record.value is None:
            table.pop(record.key, None)
        else:
            table[record.key] = record.value
    return table


# -- compaction


def test_of_every_key_the_last_record_stays_at_its_offset(bench: Bench) -> None:
    bench.append((b"a", b"1"), (b"b", b"1"), (b"a", b"2"))
    bench.append((b"c", b"1"), (b"a", b"3"))
    assert bench.compact() == 2
    assert [(r.offset, r.key, r.value) for r in bench.read()] == [(1, b"b", b"1"), (3, b"c", b"1"), (4, b"a", b"3")]


def test_a_marker_is_a_key_like_others(bench: Bench) -> None:
    for n in range(5):
        bench.append((b"user", b"state"), (b"\x00marker", str(n).encode()))
    bench.compact()
    assert [(r.offset, r.value) for r in bench.read() if r.key == b"\x00marker"] == [(9, b"4")]


def test_records_without_a_key_stay(bench: Bench) -> None:
    bench.append((None, b"1"), (None, b"2"), (b"a", b"1"), (b"a", b"2"))
    bench.compact()
    assert bench.offsets() == [0, 1, 3]


def test_a_young_tombstone_stays_and_an_old_one_goes(bench: Bench) -> None:
    bench.append((b"a", b"1"), (b"a", None))
    bench.append((b"b", b"1"))
    bench.compact()
    assert bench.offsets() == [1, 2], "who has read the value must still see it go"
    bench.clock.advance(DAY + timedelta(minutes=1))
    bench.compact()
    assert bench.offsets() == [2]


def test_a_tombstone_merged_with_an_older_row_does_not_go_early(bench: Bench) -> None:
    bench.append((b"a", b"1"))
    bench.clock.advance(timedelta(minutes=40))
    bench.append((b"b", None), (b"c", b"1"))
    bench.compact()
    assert bench.rows() == 1
    bench.clock.advance(timedelta(hours=23, minutes=40))
    bench.compact()
    assert bench.offsets() == [0, 1, 2], "the first row is older than a day, the tombstone is not"
    bench.clock.advance(timedelta(hours=1))
    bench.compact()
    assert bench.offsets() == [0, 2]


def test_tombstones_age_although_new_records_keep_coming(bench: Bench) -> None:
    bench.append((b"gone", None))
    for hour in range(30):
        bench.clock.advance(timedelta(hours=1))
        bench.append((b"alive", str(hour).encode()))
        bench.compact()
    assert b"gone" not in {record.key for record in bench.read()}


def test_the_last_record_stays_even_if_it_is_an_old_tombstone(bench: Bench) -> None:
    bench.append((b"a", b"1"), (b"a", None))
    bench.clock.advance(10 * DAY)
    bench.compact()
    assert bench.offsets() == [1], "a reader has to reach the end offset"


def test_the_topics_own_delete_retention_counts(tmp_path: Path) -> None:
    with opened(tmp_path, cleanup_policy="compact", delete_retention_ms="60000") as bench:
        bench.append((b"a", None), (b"b", b"1"))
        bench.clock.advance(timedelta(seconds=61))
        bench.compact()
        assert bench.offsets() == [1]


def test_small_rows_grow_together(bench: Bench) -> None:
    for n in range(100):
        bench.append((str(n).encode(), b"v"))
    assert bench.rows() == 100
    bench.compact()
    assert (bench.rows(), len(bench.offsets())) == (1, 100)


def test_compaction_starts_only_when_half_of_the_log_is_new(bench: Bench) -> None:
    def due() -> bool:
        return compaction.compact(bench.log, 1, bench.config, bench.clock.now_ms(), bench.pace) > 0

    bench.append(*[(b"a", b"v")] * (compaction.DIRTY_RECORDS - 1))
    assert not due(), "too little to be worth it"
    bench.append((b"a", b"v"), (b"a", b"w"))
    assert due()
    bench.append(*[(str(n).encode(), bytes(100)) for n in range(10_000)])
    bench.compact()
    bench.append(*[(b"0", b"v")] * compaction.DIRTY_RECORDS)
    assert not due(), "a small part of the log"


def test_appends_go_on_between_the_steps_of_compaction(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "WINDOW_BYTES", 200)
    for n in range(50):
        bench.append((str(n % 5).encode(), str(n).encode()))
    appended = [100]
    rest = bench.pace.rest

    def rest_while_others_append() -> None:
        rest()
        bench.append((b"0", str(appended[0]).encode()))
        appended[0] += 1

    monkeypatch.setattr(bench.pace, "rest", rest_while_others_append)
    bench.compact()
    assert folded(bench.read())[b"0"] == str(appended[0] - 1).encode()
    assert {key: folded(bench.read())[key] for key in (b"1", b"2", b"3", b"4")} == {
        b"1": b"46",
        b"2": b"47",
        b"3": b"48",
        b"4": b"49",
    }


class Append(NamedTuple):
    pairs: list[tuple[bytes | None, bytes | None]]


class Advance(NamedTuple):
    hours: int


class Compact(NamedTuple):
    pass


KEYS = st.one_of(st.none(), st.sampled_from([b"a", b"b", b"c", b"d", b""]))
VALUES = st.one_of(st.none(), st.binary(max_size=40))
STEPS = st.lists(
    st.one_of(
        st.builds(Append, st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=12)),
        st.builds(Advance, st.integers(1, 40)),
        st.builds(Compact),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, read_before=st.integers(0, 200))
def test_whatever_is_appended_and_compacted_the_table_stays_the_same(
    steps: list[Append | Advance | Compact], read_before: int
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (compaction, "WINDOW_BYTES", 300),
            (compaction, "ROW_RECORDS", 7),
            (compaction, "ROW_BYTES", 150),
            (compaction, "MAP_KEYS", 3),
            (records, "ROW_RECORDS", 5),
        ):
            patch.setattr(module, name, value)
        with opened(Path(directory), cleanup_policy="compact") as bench:
            written: list[Record] = []
            for step in steps:
                match step:
                    case Append(pairs):
                        start = len(written)
                        bench.append(*pairs)
                        written += [Record(start + n, 0, key, value) for n, (key, value) in enumerate(pairs)]
                    case Advance(hours):
                        bench.clock.advance(timedelta(hours=hours))
                    case Compact():
                        bench.compact()
                        check(bench, written, min(read_before, len(written)))


def check(bench: Bench, written: list[Record], position: int) -> None:
    left = bench.read()
    assert folded(left) == folded(written)
    assert all(record == written[record.offset] for record in left), "records never change or move"
    assert [r.offset for r in left] == sorted({r.offset for r in left})
    assert {r.offset for r in written if r.key is None} <= {r.offset for r in left}
    if written:
        assert left[-1].offset == len(written) - 1
    assert bench.read(position) == [record for record in left if record.offset >= position]


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=10), min_size=1, max_size=12),
    position=st.integers(0, 120),
)
def test_a_reader_overtaken_by_compaction_ends_up_with_the_same_table(
    batches: list[list[tuple[bytes | None, bytes | None]]], position: int
) -> None:
    with tempfile.TemporaryDirectory() as directory, opened(Path(directory), cleanup_policy="compact") as bench:
        for pairs in batches:
            bench.append(*pairs)
        everything = bench.read()
        seen = [record for record in everything if record.offset < position]
        bench.compact()
        assert folded(seen + bench.read(min(position, len(everything)))) == folded(everything)


# -- retention


def test_what_was_written_before_the_retention_time_goes(tmp_path: Path) -> None:
    with opened(tmp_path, retention_ms=str(millis(DAY))) as bench:
        bench.append((b"k", b"old"), (b"k", b"old"))
        bench.clock.advance(timedelta(hours=20))
        bench.append((b"k", b"new"))
        bench.clock.advance(timedelta(hours=5))
        bench.expire()
        assert bench.offsets() == [2]
        assert bench.log.bounds()[1] == (2, 3)
        bench.clock.advance(DAY)
        bench.expire()
        assert bench.offsets() == []
        assert bench.log.bounds()[1] == (3, 3)
        assert bench.append((b"k", b"next")) == 4


def test_records_stay_a_week_where_nothing_is_said_and_for_ever_where_it_is(tmp_path: Path) -> None:
    with opened(tmp_path / "week") as week, opened(tmp_path / "ever", retention_ms="-1") as ever:
        for bench in (week, ever):
            bench.append((b"k", b"v"))
            bench.clock.advance(timedelta(days=6, hours=23))
            bench.expire()
            assert bench.offsets() == [0]
            bench.clock.advance(timedelta(days=1))
            bench.expire()
        assert week.offsets() == []
        assert ever.offsets() == [0]


def test_old_timestamps_of_records_do_not_shorten_their_stay(bench: Bench) -> None:
    bench.append((b"k", b"loaded from last year's file"))
    bench.config["retention.ms"] = str(millis(DAY))
    bench.expire()
    assert bench.offsets() == [0], "the record's own timestamp is 1970"


def test_the_oldest_go_when_there_are_more_bytes_than_allowed(tmp_path: Path) -> None:
    with opened(tmp_path, retention_ms="-1", retention_bytes="3000") as bench:
        for _ in range(200):
            bench.append((b"k", bytes(500)))
        bench.expire()
        assert bench.offsets() == list(range(195, 200))
        assert bench.log.bounds()[1] == (195, 200)


# -- both, in the background


def test_a_round_gives_each_topic_what_its_policy_says(tmp_path: Path) -> None:
    with opened(tmp_path, cleanup_policy="compact,delete", retention_ms=str(millis(DAY))) as bench:
        bench.append((b"old", b"v"))
        bench.clock.advance(2 * DAY)
        bench.append(*[(str(n % 10).encode(), b"v") for n in range(2000)])
        maintenance = Maintenance(bench.location, bench.writer, bench.clock)
        try:
            maintenance.round()
        finally:
            maintenance.close()
        assert bench.offsets() == list(range(1991, 2001))
        assert bench.log.bounds()[1].start == bench.log.db.execute("SELECT min(base) FROM log_1").fetchone()[0]


def test_two_processes_do_not_clean_at_the_same_time(tmp_path: Path) -> None:
    with opened(tmp_path, cleanup_policy="compact") as bench:
        bench.append(*[(b"k", b"v")] * 2000)
        first = Maintenance(bench.location, bench.writer, bench.clock)
        second = Maintenance(bench.location, bench.writer, bench.clock)
        meanwhile: list[int] = []
        clean = first._clean

        def clean_while_the_other_tries(db: object) -> None:
            second.round()
            meanwhile.append(len(bench.offsets()))
            clean(db)  # type: ignore[arg-type]

        first._clean = clean_while_the_other_tries  # type: ignore[method-assign]
        try:
            first.round()
        finally:
            first.close()
            second.close()
        assert meanwhile == [2000]
        assert bench.offsets() == [1999]
