"""Whole slices through a Faust consumer: how they are cut, when they are dropped, and who is held while positions move."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.types import TP, ConsumerMessage
from hypothesis import given
from hypothesis import strategies as st

from agents.transport import Batch
from app.transport import batches as module
from app.transport.batches import BATCH_BYTES, BATCH_RECORDS, FetchedSlice, LaneConsumerMixin, LaneTopic, batches
from app.transport.embedded.acks import DeliveryTracker
from app.transport.embedded.records import Record
from tables.log import TopicPartition

LANE, OTHER_LANE, PLAIN = TP("lane", 0), TP("lane", 1), TP("plain", 0)


def slice_of(count: int, *, start: int = 0, epoch: int = 0, value: bytes = b"v") -> FetchedSlice:
    records = [Record(start + n, 1000, b"k", value) for n in range(count)]
    return FetchedSlice(records, start + count, count * len(value), epoch)


# -- cutting


def test_a_small_slice_is_one_batch() -> None:
    [batch] = batches(LANE, slice_of(10, start=5, epoch=3))
    assert batch.tp == TopicPartition("lane", 0)
    assert ([r.offset for r in batch.records], batch.next_offset, batch.epoch) == ([*range(5, 15)], 15, 3)


def test_a_slice_without_records_says_where_the_partition_goes_on() -> None:
    [batch] = batches(LANE, FetchedSlice([], 99, 0, 3))
    assert (batch.records, batch.next_offset, batch.epoch) == ([], 99, 3)


def test_a_batch_is_bounded_in_records() -> None:
    cut = batches(LANE, slice_of(BATCH_RECORDS * 2 + 1))
    assert [len(batch.records) for batch in cut] == [BATCH_RECORDS, BATCH_RECORDS, 1]


def test_a_batch_is_bounded_in_bytes_but_takes_a_single_large_record() -> None:
    large = BATCH_BYTES + 1
    records = [Record(n, 0, None, bytes(size)) for n, size in enumerate([10, large, 10, 10])]
    cut = batches(LANE, FetchedSlice(records, 4, large + 30, 0))
    assert [[r.offset for r in batch.records] for batch in cut] == [[0], [1], [2, 3]]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 6), st.integers(1, 20))
def test_cutting_loses_nothing_and_each_batch_ends_where_the_next_begins(
    sizes: list[int], count: int, weight: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_RECORDS", count)
        patch.setattr(module, "BATCH_BYTES", weight)
        records = [Record(2 * n, 0, None, bytes(size)) for n, size in enumerate(sizes)]
        cut = batches(LANE, FetchedSlice(records, 500, sum(sizes), 0))
    assert [record for batch in cut for record in batch.records] == records
    assert all(len(batch.records) <= count for batch in cut)
    assert all(batch.next_offset <= after.records[0].offset for batch, after in pairwise(cut))
    assert not cut or cut[-1].next_offset == 500


# -- the topic


async def test_a_lane_topic_hands_the_batch_to_its_agent_and_leaves_acks_to_the_lane() -> None:
    app = faust.App("test", broker="embedded:///nowhere", web_enabled=False)
    topic = LaneTopic(app, topics=["lane"], partitions=2)
    for channel in (topic, topic.clone(is_iterator=True)):
        assert isinstance(channel, LaneTopic)
        assert channel.acks is False
        [batch] = batches(LANE, slice_of(3))
        message = ConsumerMessage(*LANE, 2, 1.0, 0, [], None, batch, None, None, None, LANE)  # type: ignore[arg-type]
        event = await channel.decode(message, propagate=True)
        assert event.value is batch


# -- the consumer


class FaustConsumer:
    """What the mixin relies on of Faust's consumer."""

    def __init__(self) -> None:
        self.app: Any = SimpleNamespace(
            topics=[LaneTopicDouble()],
            client_only=False,
            consumer_generation_id=1,
            monitor=SimpleNamespace(track_tp_end_offset=lambda tp, end: None),
            lane_offsets=lambda: {LANE: 7, TP("elsewhere", 0): 1},
        )
        self.scheduler = SimpleNamespace(
            iterate=lambda records: ((tp, record) for tp, found in records.items() for record in found)
        )
        self.flow_active = True
        self.should_stop = False
        self.active = {LANE, OTHER_LANE, PLAIN}
        self.paused: set[TP] = set()
        self._buffered_partitions: set[TP] = set()
        self._read_offset: dict[TP, int | None] = {}
        self.fetched: dict[TP, Any] = {}
        self.seeks: list[tuple[TP, int]] = []
        self.wakes = 0
        self.active_while_seeking: set[TP] | None = None

    def assignment(self) -> set[TP]:
        return {LANE, OTHER_LANE, PLAIN, TP("changelog", 0)}

    def _is_changelog_tp(self, tp: TP) -> bool:
        return tp.topic == "changelog"

    def highwater(self, tp: TP) -> int:
        return 0

    def _get_active_partitions(self) -> set[TP]:
        return self.active

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        self.active -= set(tps)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        self.active |= set(tps)

    def resume_flow(self) -> None:
        self.flow_active = True

    def on_buffer_drop(self, tp: TP) -> None:
        self._buffered_partitions.discard(tp)
        self.active.add(tp)

    async def perform_seek(self) -> None:
        self.active_while_seeking = set(self.active)

    async def seek(self, tp: TP, offset: int) -> None:
        self.seeks.append((tp, offset))

    async def wait(self, event: asyncio.Event, timeout: float) -> None:
        await asyncio.wait_for(event.wait(), timeout)

    async def _wait_next_records(self, timeout: float) -> tuple[Mapping[TP, Any] | None, set[TP] | None]:
        return self.fetched, self.active

    def _to_message(self, tp: TP, record: Record) -> Any:
        return SimpleNamespace(tp=tp, offset=record.offset, value=record.value)


class LaneTopicDouble(LaneTopic):
    def __init__(self) -> None:
        self.topics = ["lane"]

    def __hash__(self) -> int:
        return id(self)


class Consumer(LaneConsumerMixin, FaustConsumer):
    def __init__(self) -> None:
        super().__init__()
        self.delivered: list[tuple[TP, int]] = []

    def wake_fetch(self) -> None:
        self.wakes += 1

    def delivering(self, tp: TP, offset: int) -> None:
        self.delivered.append((tp, offset))


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


async def received(consumer: Consumer) -> list[tuple[TP, Any]]:
    return [(tp, message.value) async for tp, message in consumer.getmany(1.0)]


async def test_lane_partitions_come_as_batches_and_plain_ones_record_by_record(consumer: Consumer) -> None:
    consumer.fetched = {LANE: slice_of(3), PLAIN: [Record(0, 0, None, b"a"), Record(1, 0, None, b"b")]}
    plain, (tp, batch) = (got := await received(consumer))[:2], got[2]
    assert plain == [(PLAIN, b"a"), (PLAIN, b"b")]
    assert tp == LANE
    assert isinstance(batch, Batch)
    assert len(batch.records) == 3
    assert consumer.delivered == [(PLAIN, 0), (PLAIN, 1)], "the lane keeps its own account"
    assert consumer._read_offset[LANE] == 2, "Faust must not find a gap"


async def test_what_was_fetched_before_a_seek_is_dropped(consumer: Consumer) -> None:
    before = slice_of(3, epoch=consumer.seek_epoch)
    await consumer.perform_seek()
    consumer.resume_flow()
    consumer.fetched = {LANE: before, OTHER_LANE: slice_of(2, epoch=consumer.seek_epoch)}
    assert [tp for tp, _ in await received(consumer)] == [OTHER_LANE]


async def test_a_seek_in_the_middle_of_a_slice_drops_the_rest_of_it(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_RECORDS", 2)
    consumer.fetched = {LANE: slice_of(6, epoch=consumer.seek_epoch)}
    got = []
    async for _, message in consumer.getmany(1.0):
        got.append(message)
        consumer.seek_epoch += 1
    assert len(got) == 1


async def test_what_was_fetched_while_a_seek_was_under_way_is_dropped(consumer: Consumer) -> None:
    epochs: list[int] = []

    async def lane_seek(tp: TP, offset: int) -> None:
        epochs.append(consumer.seek_epoch)

    consumer.seek = lane_seek  # type: ignore[method-assign]
    epochs.append(consumer.seek_epoch)
    await consumer.perform_seek()
    epochs.append(consumer.seek_epoch)
    assert len(set(epochs)) == 3


async def test_lanes_go_on_where_their_restored_state_says(consumer: Consumer) -> None:
    await consumer.perform_seek()
    assert consumer.seeks == [(LANE, 7)], "only what is assigned"


async def test_an_application_without_lanes_is_only_sought_to_its_commits(consumer: Consumer) -> None:
    del consumer.app.lane_offsets
    await consumer.perform_seek()
    assert consumer.seeks == []


async def test_sources_are_held_from_the_seek_until_the_flow_resumes(consumer: Consumer) -> None:
    changelog = TP("changelog", 0)
    consumer.active.add(changelog)
    await consumer.perform_seek()
    assert consumer.active_while_seeking == {changelog}
    assert consumer.active == {changelog}, "resuming the flow empties the agents' queues: nothing may be in them"
    consumer.resume_flow()
    assert consumer.active == {changelog, LANE, OTHER_LANE, PLAIN}
    consumer.pause_partitions({LANE})
    consumer.resume_flow()
    assert LANE not in consumer.active, "held once, released once"


async def test_nothing_is_delivered_while_the_flow_is_stopped(consumer: Consumer) -> None:
    consumer.fetched = {LANE: slice_of(3)}
    consumer.flow_active = False
    assert await received(consumer) == []


async def test_a_generation_that_is_over_ends_the_delivery(consumer: Consumer) -> None:
    consumer.fetched = {LANE: slice_of(1), OTHER_LANE: slice_of(1)}
    got = []
    async for tp, _ in consumer.getmany(1.0):
        got.append(tp)
        consumer.app.consumer_generation_id += 1
    assert got == [LANE]


async def test_a_queue_that_drains_wakes_the_fetch(consumer: Consumer) -> None:
    consumer.on_buffer_drop(LANE)
    assert consumer.wakes == 0, "it was not full"
    consumer._buffered_partitions.add(LANE)
    consumer.on_buffer_drop(LANE)
    consumer.resume_partitions({OTHER_LANE})
    assert consumer.wakes == 2


async def test_with_no_partition_to_fetch_from_the_fetcher_waits_for_one(consumer: Consumer) -> None:
    consumer.active.clear()
    waiting = asyncio.create_task(received(consumer))
    await asyncio.sleep(0)
    assert not waiting.done()
    consumer.resume_partitions({LANE})
    assert await waiting == []


# -- plain acknowledgements


@given(st.lists(st.integers(0, 30), unique=True), st.data())
def test_what_is_committed_never_passes_a_record_in_flight(offsets: list[int], data: st.DataObject) -> None:
    offsets.sort()
    tracker = DeliveryTracker()
    acked: set[int] = set()
    done: set[int] = set()
    committed = None
    for offset in offsets:
        tracker.deliver(offset)
    for offset in data.draw(st.permutations(offsets)):
        acked.add(offset)
        done.add(offset)
        moved = tracker.advance(acked)
        committed = committed if moved is None else moved
        in_flight = [left for left in offsets if left not in done]
        assert committed is None or committed <= min(in_flight, default=31)
        if offsets[0] in done:
            assert committed == max(left for left in offsets if not in_flight or left < in_flight[0]) + 1
    assert acked == set(), "what is committed is forgotten"
