"""The feed of recent alerts: bounded, newest first, with cursors that stay right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import pytest

from app import alert_follower
from app.alert_follower import AlertFollower
from app.alerts import AlertFeed, BadCursor
from models.errors import UnknownTopic
from tables.log import Record, Slice, TopicPartition
from tests.support.waiting import until_async
from tests.web.fakes import alert

TOPIC = "fraud-alerts"


def numbers(feed: AlertFeed, limit: int = 50, cursor: str | None = None) -> list[int]:
    return [found.source.offset for found in feed.recent(limit=limit, cursor=cursor).alerts]


def test_alerts_come_newest_first() -> None:
    feed = AlertFeed()
    feed.feed([alert(1), alert(2)])
    feed.feed([alert(3)])
    assert numbers(feed) == [3, 2, 1]


def test_the_oldest_alerts_make_room_by_number_and_by_bytes() -> None:
    feed = AlertFeed(max_alerts=3)
    feed.feed([alert(n) for n in range(10)])
    assert numbers(feed) == [9, 8, 7]
    small = AlertFeed(max_bytes=3 * len(alert(1)))
    small.feed([alert(n) for n in range(10)])
    assert numbers(small) == [9, 8, 7]


def test_an_alert_larger_than_the_whole_feed_leaves_it_empty() -> None:
    feed = AlertFeed(max_bytes=100)
    feed.feed([alert(1)])
    assert len(feed) == 0
    assert feed.recent().cursor is None


def test_pages_neither_repeat_nor_skip_while_alerts_arrive_and_fall_out() -> None:
    feed = AlertFeed(max_alerts=8)
    feed.feed([alert(n) for n in range(8)])
    first = feed.recent(limit=3)
    feed.feed([alert(8), alert(9)])
    second = feed.recent(limit=3, cursor=first.cursor)
    assert [found.source.offset for found in second.alerts] == [4, 3, 2]
    assert second.cursor is None, "0 and 1 have fallen out, so there are no more"


def test_a_full_page_with_nothing_behind_it_has_no_cursor() -> None:
    feed = AlertFeed()
    feed.feed([alert(1), alert(2)])
    assert feed.recent(limit=2).cursor is None
    assert feed.recent(limit=1).cursor is not None


def test_filters_apply_before_the_limit() -> None:
    feed = AlertFeed()
    feed.feed([alert(n, user_id=f"u{n % 2}", rule_id=f"R{n % 3}") for n in range(12)])
    page = feed.recent(user_id="u1", rule_id="R0", limit=1)
    assert [found.source.offset for found in page.alerts] == [9]
    assert [found.source.offset for found in feed.recent("u1", "R0", 1, page.cursor).alerts] == [3]


@pytest.mark.parametrize("cursor", ["", ".", "x", "0", "deadbeef.5", "deadbeef." + "9" * 400])
def test_a_cursor_of_somebody_else_is_refused(cursor: str) -> None:
    with pytest.raises(BadCursor):
        AlertFeed().recent(cursor=cursor)


def test_a_cursor_of_an_earlier_run_is_refused() -> None:
    before, after = AlertFeed(), AlertFeed()
    for feed in (before, after):
        feed.feed([alert(1), alert(2)])
    with pytest.raises(BadCursor):
        after.recent(cursor=before.recent(limit=1).cursor)


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"\xff", b'{"user_id":"user42"}', b"[" * 100_000])
def test_a_record_that_is_no_alert_is_left_out(value: bytes) -> None:
    feed = AlertFeed()
    feed.feed([alert(1), value, alert(2)])
    assert numbers(feed) == [2, 1]
    assert [found.source.offset for found in feed.recent(user_id="user42").alerts] == [2, 1]


def test_the_version_changes_with_every_feed() -> None:
    feed = AlertFeed()
    before = feed.version
    feed.feed([alert(1)])
    assert feed.version != before


class OneRecord(NamedTuple):
    offset: int
    timestamp: int
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] | None = None


class MemoryReader:
    """Partitions in memory; hands out one record a poll.  ``onto`` sees every poll."""

    def __init__(self, *partitions: Sequence[Record], stuck: bool = False) -> None:
        self.log = {TopicPartition(TOPIC, number): list(records) for number, records in enumerate(partitions)}
        self.positions: dict[TopicPartition, int] = {}
        self.stuck = stuck
        self.polls = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def partitions(self, topic: str) -> int:
        if not self.log:
            raise UnknownTopic(f"no topic {topic}")
        return len(self.log)

    async def start_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.log[tp][0].offset if self.log[tp] else 0 for tp in tps}

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.log[tp][-1].offset + 1 if self.log[tp] else 0 for tp in tps}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self.positions = dict(positions)

    async def poll(self, timeout: float) -> list[Slice]:
        self.polls += 1
        await asyncio.sleep(timeout if self.stuck else 0)
        for tp, position in self.positions.items():
            for record in self.log[tp] if not self.stuck else ():
                if record.offset >= position:
                    self.positions[tp] = record.offset + 1
                    return [Slice(tp, [record], record.offset + 1)]
        return []


async def test_filling_merges_the_tails_of_all_partitions_by_time() -> None:
    feed = AlertFeed()
    reader = MemoryReader(
        [OneRecord(0, 10, alert(1)), OneRecord(1, 30, alert(3))],
        [OneRecord(5, 20, alert(2)), OneRecord(6, 40, None), OneRecord(7, 50, alert(5))],
        [],
    )
    await feed.fill(reader, TOPIC)
    assert numbers(feed) == [5, 3, 2, 1]
    assert reader.positions == {}


async def test_filling_reads_the_tail_only() -> None:
    feed = AlertFeed()
    reader = MemoryReader(*([OneRecord(n, n, alert(n)) for n in range(100)] for _ in range(2)))
    await feed.fill(reader, TOPIC, tail=10)
    assert reader.polls == 10
    assert numbers(feed) == [99, 99, 98, 98, 97, 97, 96, 96, 95, 95]


async def test_what_was_fed_while_filling_comes_last_and_once() -> None:
    feed = AlertFeed()
    reader = MemoryReader([OneRecord(0, 1, alert(1)), OneRecord(1, 2, alert(2))])
    filling = asyncio.ensure_future(feed.fill(reader, TOPIC))
    await asyncio.sleep(0)
    feed.feed([alert(2), alert(3)])
    await filling
    assert numbers(feed) == [3, 2, 1]


async def test_filling_from_a_topic_that_does_not_exist_yet_is_filling_from_nothing() -> None:
    feed = AlertFeed()
    await feed.fill(MemoryReader(), TOPIC)
    assert len(feed) == 0


async def test_a_log_that_stands_still_delays_the_start_no_longer_than_the_timeout() -> None:
    feed = AlertFeed()
    feed.feed([alert(7)])
    reader = MemoryReader([OneRecord(0, 1, alert(1))], stuck=True)
    await feed.fill(reader, TOPIC, timeout=timedelta(milliseconds=50))
    assert numbers(feed) == [7]


async def test_a_worker_whose_jobs_raise_no_alerts_waits_for_the_topic_without_a_word(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_follower, "RETRY_S", 0.01)
    asked = 0

    def reader() -> MemoryReader:
        nonlocal asked
        asked += 1
        return MemoryReader() if asked < 4 else MemoryReader([OneRecord(0, 1, alert(1))])

    feed = AlertFeed()
    follower = AlertFollower(TOPIC, feed, reader, lambda: {0})
    await follower.start()
    try:
        await until_async(lambda: len(feed) == 1, within=5, what="the alert of the topic that is there now")
    finally:
        await follower.stop()
    assert not caplog.records
