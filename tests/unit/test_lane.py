"""The lane's rules, with a sink that the test holds in its hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.lane import Lane, LaneOptions
from agents.operator import Context, KeyedProcessFunction, OperatorSpec, keyed_source
from agents.testing import HarnessRecord
from agents.transport import Batch, SealedPart
from tables import ListState, ValueState
from tables.log import TopicPartition
from tables.store import PartitionStore


class Event(msgspec.Struct):
    user_id: str
    timestamp: int
    n: int = 1


class Sum(KeyedProcessFunction[Event, int]):
    total = ValueState(int)
    seen = ListState(int)

    def process_element(self, event: Event, ctx: Context) -> Iterator[int]:
        if event.n < 0:
            raise ValueError("a negative number")
        self.total.update((self.total.value() or 0) + event.n)
        self.seen.add(event.n)
        yield self.total.value() or 0


SPEC = OperatorSpec(
    uid="sum",
    name="Sum",
    job="test",
    function=Sum,
    source=keyed_source("numbers", msgspec.json.Decoder(Event).decode, "user_id"),
    output="sums",
)


class HeldSink:
    """Writes when the test lets it."""

    def __init__(self) -> None:
        self.written: list[SealedPart] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail: Exception | None = None
        self.counts = {"numbers": 4, "sums": 4, "numbers.dlq": 4}

    async def open(self, uid: str, source: TopicPartition, changelog: TopicPartition) -> None: ...

    async def close(self, uid: str, source: TopicPartition) -> None: ...

    async def write(self, part: SealedPart) -> int:
        await self.gate.wait()
        if self.fail:
            raise self.fail
        self.written.append(part)
        return 0

    def partitions(self, topic: str) -> int:
        return self.counts[topic]


class Bench:
    """A lane with partition 0 open."""

    def __init__(self, *, max_part_records: int = 1000) -> None:
        self.sink = HeldSink()
        self.fatal: list[BaseException] = []
        self.epoch = 2
        self.lane = Lane(
            SPEC,
            LaneOptions(
                app_id="app",
                app_version="1",
                commit_interval=timedelta(milliseconds=1),
                max_drift=timedelta(days=10_000),
                max_part_records=max_part_records,
            ),
            lambda: self.sink,
            fatal=lambda exc, where: self.fatal.append(exc),
            current_epoch=lambda: self.epoch,
        )
        self.lane.open(0, PartitionStore())

    async def give(self, *numbers: int, first: int, epoch: int = 2, key: str = "u") -> None:
        records = [
            HarnessRecord(first + i, 1000 + i, key.encode(), msgspec.json.encode(Event(key, 1000 + i, n)))
            for i, n in enumerate(numbers)
        ]
        await self.lane.process(Batch(TopicPartition("numbers", 0), records, first + len(numbers), epoch))

    async def drained(self) -> list[SealedPart]:
        assert await self.lane.drain(timedelta(seconds=5))
        return self.sink.written

    def sums(self) -> list[int]:
        return [
            int(value)
            for part in self.sink.written
            for tp, outs in part.outputs.items()
            for _, value, _ in outs
            if tp.topic == "sums" and value
        ]


@pytest.fixture
async def bench() -> Any:
    made = Bench()
    yield made
    await made.lane.close(0)


async def test_a_part_holds_outputs_rows_and_a_marker_for_the_same_records(bench: Bench) -> None:
    await bench.give(1, 2, 3, first=0)
    (part,) = await bench.drained()
    assert part.next_offset == 3
    assert bench.sums() == [1, 3, 6]
    store = PartitionStore()
    store.apply([HarnessRecord(i, 0, k, v) for i, (k, v) in enumerate(part.rows)], len(part.rows))
    assert store.markers["numbers"].next_offset == 3
    assert set(store.states) == {"total", "seen"}


async def test_the_marker_is_the_last_row_of_a_part(bench: Bench) -> None:
    await bench.give(1, first=0)
    (part,) = await bench.drained()
    assert part.rows[-1][0].startswith(b"\x00marker")


async def test_records_that_the_state_contains_already_are_skipped(bench: Bench) -> None:
    await bench.give(1, 2, first=0)
    await bench.give(1, 2, 4, first=0)
    await bench.drained()
    assert bench.sums() == [1, 3, 7]


async def test_a_batch_fetched_before_the_last_seek_is_dropped(bench: Bench) -> None:
    await bench.give(1, first=0, epoch=1)
    assert bench.lane.offsets() == {TopicPartition("numbers", 0): 0}


async def test_a_batch_of_a_partition_that_is_gone_is_dropped(bench: Bench) -> None:
    await bench.lane.close(0)
    await bench.give(1, first=0)
    assert bench.sink.written == []


async def test_values_are_encoded_at_the_cut_so_a_later_change_cannot_leak_into_an_earlier_part(bench: Bench) -> None:
    bench.sink.gate.clear()
    await bench.give(1, first=0)
    opened = bench.lane.partitions[0]
    while opened.part.records:  # until the cut
        opened.cut_due.set()
        await asyncio.sleep(0)
    await bench.give(10, first=1)
    bench.sink.gate.set()
    first, second = await bench.drained()
    totals = [dict(part.rows)[b"total\x00u\x00\x00"] for part in (first, second)]
    assert [msgspec.msgpack.decode(row or b"") for row in totals] == [1, 11]


async def test_the_next_part_fills_while_the_last_one_is_being_written(bench: Bench) -> None:
    bench.sink.gate.clear()
    await bench.give(1, first=0)
    await asyncio.sleep(0.02)
    for n in range(5):
        await bench.give(1, first=1 + n)
    bench.sink.gate.set()
    await bench.drained()
    assert bench.sums() == [1, 2, 3, 4, 5, 6]
    assert len(bench.sink.written) == 2


async def test_back_pressure_counts_records_not_batches() -> None:
    bench = Bench(max_part_records=4)
    bench.sink.gate.clear()
    await bench.give(1, first=0)
    await asyncio.sleep(0.02)  # the first part is being written
    await bench.give(1, 1, 1, 1, first=1)
    waiting = asyncio.ensure_future(bench.give(1, 1, first=5))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    bench.sink.gate.set()
    await asyncio.wait_for(waiting, 5)
    await bench.drained()
    assert bench.sums() == list(range(1, 8))
    await bench.lane.close(0)


async def test_a_failed_write_is_fatal_and_the_partition_never_looks_drained(bench: Bench) -> None:
    bench.sink.fail = OSError("disk full")
    await bench.give(1, first=0)
    assert not await bench.lane.drain(timedelta(milliseconds=100))
    assert [str(exc) for exc in bench.fatal] == ["disk full"]


async def test_a_record_whose_function_fails_goes_to_the_dead_letters_and_its_neighbours_are_processed(
    bench: Bench,
) -> None:
    await bench.give(1, -1, 2, first=0)
    (part,) = await bench.drained()
    (letter,) = part.outputs[TopicPartition("numbers.dlq", 0)]
    headers = dict(letter[2] or ())
    assert headers["origin-offset"] == b"1"
    assert headers["error-class"] == b"ValueError"
    assert headers["error-message"] == b"a negative number"
    assert headers["attempt"] == b"1"
    assert bench.sums()[:2] == [1, 3]


async def test_outputs_go_by_their_key_where_the_topic_has_another_number_of_partitions(bench: Bench) -> None:
    bench.sink.counts["sums"] = 5
    await bench.give(1, first=0, key="foobar")
    (part,) = await bench.drained()
    # Kafka's own test vector: murmur2("foobar") is -790332482, so 1357151166 % 5 after the sign bit is cleared.
    assert list(part.outputs) == [TopicPartition("sums", 1)]


async def test_state_goes_on_from_a_restored_store(bench: Bench) -> None:
    await bench.give(1, 2, first=0)
    (part,) = await bench.drained()
    await bench.lane.close(0)
    store = PartitionStore()
    store.apply([HarnessRecord(i, 0, k, v) for i, (k, v) in enumerate(part.rows)], len(part.rows))
    bench.lane.open(0, store)
    assert bench.lane.offsets() == {TopicPartition("numbers", 0): 2}
    await bench.give(1, 2, 4, first=0)
    await bench.drained()
    assert bench.sums() == [1, 3, 7]


async def test_between_two_batches_that_both_wait_already_the_loop_turns_once_for_others() -> None:
    bench = Bench()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def waiting() -> AsyncIterator[Batch]:
        for number in range(5):
            yield Batch(TopicPartition("numbers", 0), [], number, 2)

    task = asyncio.create_task(other())
    await bench.lane.consume(waiting())
    task.cancel()
    assert turns >= 4
    assert bench.fatal == []
    await bench.lane.close(0)
