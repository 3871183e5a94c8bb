"""What every transport promises to commands, views, recovery and lanes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest

from agents.transport import SealedPart
from app.transport.brokers import connect
from app.transport.client import OPTIONS, BrokerClient, NewRecord
from models.errors import Fenced, LogError, RecordTooLarge, UnknownTopic
from tables.log import LogReader, Record, TopicPartition
from tests.contract.conftest import Broker
from tests.support.waiting import until_async

DEADLINE = 20.0

PRODUCER = """
import asyncio, sys
from app.transport.brokers import connect
from app.transport.client import NewRecord

async def main(url, topic, name, count):
    async with connect(url) as client:
        for start in range(0, count, 10):
            await client.append(
                topic, [NewRecord(name.encode(), f"{name}-{i}".encode()) for i in range(start, start + 10)]
            )

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""

#: Appends when it is told to, and says when the append was done (the machine's monotonic clock).
ONE_APPEND = """
import asyncio, sys, time
from app.transport.brokers import connect
from app.transport.client import NewRecord

async def main(url, topic):
    async with connect(url) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        await client.append(topic, [NewRecord(b"k", b"news")])
        print(time.monotonic(), flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@asynccontextmanager
async def reading(client: BrokerClient, positions: Mapping[TopicPartition, int]) -> AsyncIterator[LogReader]:
    reader = client.reader()
    await reader.start()
    try:
        reader.assign(positions)
        yield reader
    finally:
        await reader.stop()


async def read_to_end(client: BrokerClient, topic: str, start: int = 0) -> dict[int, list[Record]]:
    """All records of a topic, by partition."""
    tps = [TopicPartition(topic, partition) for partition in range((await client.topics())[topic])]
    found: dict[int, list[Record]] = {tp.partition: [] for tp in tps}
    async with reading(client, dict.fromkeys(tps, start)) as reader:
        ends = await reader.end_offsets(tps)
        left = {tp for tp in tps if ends[tp] > start}
        deadline = monotonic() + DEADLINE
        while left:
            assert monotonic() < deadline, f"{left} not read to the end"
            for part in await reader.poll(1.0):
                found[part.tp.partition] += part.records
                if part.next_offset >= ends[part.tp]:
                    left.discard(part.tp)
    return found


def part(topic: str, next_offset: int, **changes: object) -> SealedPart:
    sealed = SealedPart(
        uid="op",
        source=TopicPartition(f"{topic}-in", 0),
        next_offset=next_offset,
        changelog=TopicPartition(f"{topic}-log", 0),
        rows=[(b"user", b"state"), (b"\x00marker", str(next_offset).encode())],
        outputs={TopicPartition(f"{topic}-out", 1): [(b"user", b"alert", [("why", b"because")]), (None, None, None)]},
        timestamp_ms=1_700_000_000_000,
    )
    for name, value in changes.items():
        setattr(sealed, name, value)
    return sealed


async def create_lane_topics(client: BrokerClient, topic: str) -> None:
    # Their records are years old, and half a minute after its start a broker looks for what it may delete.
    await client.create_topic(f"{topic}-in", 2, {"retention.ms": "-1"})
    await client.create_topic(f"{topic}-out", 2, {"retention.ms": "-1"})
    await client.create_topic(f"{topic}-log", 2, {"cleanup.policy": "compact"})


# -- topics


async def test_creating_a_topic_twice_leaves_the_first(client: BrokerClient, topic: str) -> None:
    assert await client.create_topic(topic, 3, {"retention.ms": "-1"})
    assert not await client.create_topic(topic, 5)
    assert (await client.topics())[topic] == 3


async def test_creating_one_topic_from_many_tasks_makes_it_once_and_all_of_them_see_it(
    client: BrokerClient, topic: str
) -> None:
    async def create() -> bool:
        made = await client.create_topic(topic, 2)
        assert (await client.topics())[topic] == 2
        return made

    assert sum(await asyncio.gather(*(create() for _ in range(8)))) == 1


async def test_a_topic_tells_the_options_it_was_made_with_and_the_defaults_of_the_others(
    client: BrokerClient, topic: str
) -> None:
    await client.create_topic(topic, 1, {"cleanup.policy": "compact", "delete.retention.ms": "5000"})
    await client.create_topic(f"{topic}-plain", 1)
    found = await client.configurations([topic, f"{topic}-plain"])
    assert found[topic].items() >= {"cleanup.policy": "compact", "delete.retention.ms": "5000"}.items()
    week, day = str(7 * 86_400_000), str(86_400_000)
    plain = {
        "cleanup.policy": "delete",
        "retention.ms": week,
        "retention.bytes": "-1",
        "delete.retention.ms": day,
    }
    assert found[f"{topic}-plain"].items() >= plain.items()
    assert set(found[topic]) | {"max.message.bytes"} == set(OPTIONS)
    assert await client.configurations([]) == {}
    with pytest.raises(UnknownTopic):
        await client.configurations([topic, f"{topic}-none"])


@pytest.mark.parametrize(
    ("name", "partitions", "config"),
    [
        ("no spaces", 1, {}),
        ("", 1, {}),
        ("..", 1, {}),
        ("x" * 250, 1, {}),
        ("none", 0, {}),
        ("odd-policy", 1, {"cleanup.policy": "burn"}),
        ("odd-number", 1, {"retention.ms": "a week"}),
    ],
)
async def test_what_cannot_be_a_topic_is_refused(
    client: BrokerClient, name: str, partitions: int, config: dict[str, str]
) -> None:
    with pytest.raises(LogError):
        await client.create_topic(name, partitions, config)
    assert name not in await client.topics()


# -- appending and reading


async def test_records_come_back_in_order_at_the_offsets_told(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 1)
    first = await client.append(topic, [NewRecord(b"k", str(i).encode(), timestamp_ms=1000 + i) for i in range(5)])
    second = await client.append(topic, [NewRecord(b"k", b"5")])
    assert [offset for _, offset in first + second] == [0, 1, 2, 3, 4, 5]
    records = (await read_to_end(client, topic))[0]
    assert [(record.offset, record.value) for record in records] == [(i, str(i).encode()) for i in range(6)]
    assert [record.timestamp for record in records[:5]] == [1000, 1001, 1002, 1003, 1004]
    assert records[5].timestamp > 1_600_000_000_000, "a record without a timestamp gets the time of its append"


async def test_keys_values_and_headers_come_back_as_they_were(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 1)
    await client.append(
        topic,
        [
            NewRecord(None, None),
            NewRecord(b"", b""),
            NewRecord(b"\xff\x00", bytes(range(256)), headers=[("a", b"\x00"), ("a", b"2"), ("\u00e4", b"")]),
        ],
    )
    nothing, empty, full = (await read_to_end(client, topic))[0]
    assert (nothing.key, nothing.value, list(nothing.headers or [])) == (None, None, [])
    assert (empty.key, empty.value) == (b"", b"")
    assert (full.key, full.value) == (b"\xff\x00", bytes(range(256)))
    assert [tuple(header) for header in full.headers or []] == [("a", b"\x00"), ("a", b"2"), ("\u00e4", b"")]


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
async def test_a_key_goes_to_the_partition_that_the_java_client_chooses(
    client: BrokerClient, topic: str, key: bytes, murmur2: int
) -> None:
    await client.create_topic(topic, 7)
    [(partition, _)] = await client.append(topic, [NewRecord(key, b"v")])
    assert partition == (murmur2 & 0x7FFFFFFF) % 7


async def test_a_partition_that_is_named_beats_the_key(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 3)
    placed = await client.append(topic, [NewRecord(b"same", b"v", partition=p) for p in (2, 0, 1)])
    assert placed == [(2, 0), (0, 0), (1, 0)]


async def test_appending_to_what_does_not_exist_is_refused(client: BrokerClient, topic: str) -> None:
    with pytest.raises(UnknownTopic):
        await client.append(topic, [NewRecord(b"k", b"v")])
    await client.create_topic(topic, 2)
    with pytest.raises(LogError):
        await client.append(topic, [NewRecord(b"k", b"v"), NewRecord(b"k", b"v", partition=2)])
    assert await read_to_end(client, topic) == {0: [], 1: []}


async def test_a_record_that_is_too_large_takes_its_whole_call_with_it(
    broker: Broker, client: BrokerClient, topic: str
) -> None:
    await client.create_topic(topic, 1)
    with pytest.raises(RecordTooLarge):
        await client.append(topic, [NewRecord(b"k", b"small"), NewRecord(b"k", bytes(broker.too_large))])
    await client.append(topic, [NewRecord(b"k", b"after")])
    assert [record.value for record in (await read_to_end(client, topic))[0]] == [b"after"]


async def test_large_records_pass_among_small_ones(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 1)
    sizes = [10, 900_000, 0, 700_000, 5, 900_000, 1]
    await client.append(topic, [NewRecord(b"k", bytes(size)) for size in sizes])
    assert [len(record.value or b"") for record in (await read_to_end(client, topic))[0]] == sizes


async def test_appends_of_many_tasks_are_all_stored(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 2)
    placed = await asyncio.gather(*(client.append(topic, [NewRecord(b"k", str(i).encode())]) for i in range(100)))
    [records] = [records for records in (await read_to_end(client, topic)).values() if records]
    assert sorted(int(record.value or b"") for record in records) == list(range(100))
    assert sorted(offset for [(_, offset)] in placed) == list(range(100))


async def test_processes_append_side_by_side_and_each_keeps_its_order(
    broker: Broker, client: BrokerClient, topic: str
) -> None:
    await client.create_topic(topic, 2)
    producers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PRODUCER, broker.url, topic, name, "200", cwd=Path(__file__).parents[2]
        )
        for name in ("ada", "bob", "cleo")
    ]
    assert [await producer.wait() for producer in producers] == [0, 0, 0]
    found = await read_to_end(client, topic)
    for records in found.values():
        assert [record.offset for record in records] == list(range(len(records)))
    values = [record.value or b"" for records in found.values() for record in records]
    for name in ("ada", "bob", "cleo"):
        mine = [value for value in values if value.startswith(name.encode())]
        assert mine == [f"{name}-{i}".encode() for i in range(200)]


# -- readers


async def test_a_reader_starts_where_it_is_told_and_says_where_it_goes_on(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 2)
    await client.append(topic, [NewRecord(b"k", str(i).encode(), partition=1) for i in range(10)])
    tp = TopicPartition(topic, 1)
    async with reading(client, {tp: 7}) as reader:
        [slice_] = await reader.poll(DEADLINE)
        assert (slice_.tp, [record.offset for record in slice_.records], slice_.next_offset) == (tp, [7, 8, 9], 10)
        reader.assign({tp: 9})
        [slice_] = await reader.poll(DEADLINE)
        assert [record.offset for record in slice_.records] == [9]


async def test_a_reader_knows_the_bounds_of_partitions(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 2)
    await client.append(topic, [NewRecord(b"k", b"v", partition=1)] * 3)
    tps = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    async with reading(client, {}) as reader:
        assert await reader.partitions(topic) == 2
        assert await reader.start_offsets(tps) == {tps[0]: 0, tps[1]: 0}
        assert await reader.end_offsets(tps) == {tps[0]: 0, tps[1]: 3}


async def test_a_reader_does_not_read_what_does_not_exist(client: BrokerClient, topic: str) -> None:
    async with reading(client, {}) as reader:
        with pytest.raises(UnknownTopic):
            await reader.partitions(topic)
        with pytest.raises(UnknownTopic):
            await reader.end_offsets([TopicPartition(topic, 0)])


async def test_polling_for_nothing_ends_with_its_timeout(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 1)
    async with reading(client, {TopicPartition(topic, 0): 0}) as reader:
        started = monotonic()
        assert await reader.poll(0.2) == []
        assert 0.15 < monotonic() - started < 5.0
        assert await reader.poll(0.0) == []


async def test_a_poll_under_way_hears_of_an_append(broker: Broker, client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 1)
    async with connect(broker.url) as other, reading(client, {TopicPartition(topic, 0): 0}) as reader:
        polling = asyncio.create_task(reader.poll(DEADLINE))
        assert not (await asyncio.wait([polling], timeout=0.1))[0], "there is nothing to be read yet"
        await other.append(topic, [NewRecord(b"k", b"news")])
        started = monotonic()
        [slice_] = await polling
        assert [record.value for record in slice_.records] == [b"news"]
        assert monotonic() - started < 2.0


async def test_a_poll_under_way_hears_of_another_process(broker: Broker, client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 1)
    producer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ONE_APPEND, broker.url, topic),
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert producer.stdout is not None
    assert await producer.stdout.readline() == b"ready\n"
    async with reading(client, {TopicPartition(topic, 0): 0}) as reader:
        polling = asyncio.create_task(reader.poll(DEADLINE))
        assert not (await asyncio.wait([polling], timeout=0.1))[0], "there is nothing to be read yet"
        answer = asyncio.create_task(producer.communicate(b"now\n"))
        [slice_] = await polling
        heard = monotonic()
        appended = float((await answer)[0])
    assert [record.value for record in slice_.records] == [b"news"]
    assert heard - appended < 1.0


async def test_an_offset_that_is_not_there_means_the_first_one(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 1)
    await client.append(topic, [NewRecord(b"k", b"v")] * 3)
    async with reading(client, {TopicPartition(topic, 0): 99}) as reader:
        [slice_] = await reader.poll(DEADLINE)
        assert [record.offset for record in slice_.records] == [0, 1, 2]


async def test_one_full_partition_does_not_starve_the_others(client: BrokerClient, topic: str) -> None:
    await client.create_topic(topic, 2)
    for _ in range(8):
        await client.append(topic, [NewRecord(b"k", bytes(100), partition=0)] * 5000)
    await client.append(topic, [NewRecord(b"k", b"here", partition=1)])
    quiet = TopicPartition(topic, 1)
    async with reading(client, {TopicPartition(topic, 0): 0, quiet: 0}) as reader:
        slices = await reader.poll(DEADLINE) + await reader.poll(DEADLINE)
        assert quiet in {slice_.tp for slice_ in slices}


# -- parts of a lane


async def group_is_at(client: BrokerClient, group: str, tp: TopicPartition, offset: int) -> None:
    """A broker shows a group's offset soon after it has ended the transaction that it came with."""

    async def shown() -> bool:
        return (await client.committed(group)).get(tp) == offset

    await until_async(shown, within=20, what=f"{group} is at {offset}")


async def test_a_part_is_outputs_rows_and_source_offset(broker: Broker, client: BrokerClient, topic: str) -> None:
    await create_lane_topics(client, topic)
    sink = broker.sink(f"{topic}-app")
    source = TopicPartition(f"{topic}-in", 0)
    await sink.open("op", source, TopicPartition(f"{topic}-log", 0))
    first = await sink.write(part(topic, 10))
    second = await sink.write(part(topic, 25))
    assert sink.partitions(f"{topic}-out") == 2
    await sink.close("op", source)

    async with reading(client, {}) as reader:
        changelog = TopicPartition(f"{topic}-log", 0)
        assert (await reader.end_offsets([changelog]))[changelog] == second > first
    rows = (await read_to_end(client, f"{topic}-log"))[0]
    assert [(row.key, row.value) for row in rows] == [
        (b"user", b"state"),
        (b"\x00marker", b"10"),
        (b"user", b"state"),
        (b"\x00marker", b"25"),
    ]
    alert, nothing, *_ = (await read_to_end(client, f"{topic}-out"))[1]
    assert (alert.key, alert.value, [tuple(h) for h in alert.headers or []]) == (
        b"user",
        b"alert",
        [("why", b"because")],
    )
    assert (nothing.key, nothing.value, alert.timestamp) == (None, None, 1_700_000_000_000)
    await group_is_at(client, f"{topic}-app", source, 25)


async def test_a_group_that_never_committed_has_no_offsets(client: BrokerClient, topic: str) -> None:
    assert await client.committed(f"{topic}-nobody") == {}


async def test_of_a_part_that_fails_nothing_is_seen(broker: Broker, client: BrokerClient, topic: str) -> None:
    await create_lane_topics(client, topic)
    sink = broker.sink(f"{topic}-app")
    source = TopicPartition(f"{topic}-in", 0)
    await sink.open("op", source, TopicPartition(f"{topic}-log", 0))
    await sink.write(part(topic, 10))
    good = (TopicPartition(f"{topic}-out", 1), [(b"user", b"alert", None)])
    bad = (TopicPartition(f"{topic}-gone", 0), [(b"user", b"alert", None)])
    with pytest.raises(LogError):
        await sink.write(part(topic, 20, outputs=dict([good, bad])))
    with pytest.raises(RecordTooLarge):
        await sink.write(part(topic, 20, rows=[(b"user", b"state"), (b"huge", bytes(broker.too_large))]))
    await sink.close("op", source)
    assert len((await read_to_end(client, f"{topic}-log"))[0]) == 2
    assert len((await read_to_end(client, f"{topic}-out"))[1]) == 2
    await group_is_at(client, f"{topic}-app", source, 10)


async def test_a_large_part_is_whole_and_in_order(broker: Broker, client: BrokerClient, topic: str) -> None:
    await create_lane_topics(client, topic)
    sink = broker.sink(f"{topic}-app")
    source = TopicPartition(f"{topic}-in", 0)
    await sink.open("op", source, TopicPartition(f"{topic}-log", 0))
    rows = [(f"user-{i}".encode(), bytes(200)) for i in range(20_000)]
    await sink.write(part(topic, 20_000, rows=rows))
    await sink.close("op", source)
    assert [record.key for record in (await read_to_end(client, f"{topic}-log"))[0]] == [key for key, _ in rows]


async def test_parts_of_different_partitions_do_not_wait_for_each_other(
    broker: Broker, client: BrokerClient, topic: str
) -> None:
    await create_lane_topics(client, topic)
    sink = broker.sink(f"{topic}-app")
    sources = [TopicPartition(f"{topic}-in", p) for p in (0, 1)]
    await asyncio.gather(
        *(sink.open("op", source, TopicPartition(f"{topic}-log", source.partition)) for source in sources)
    )
    await asyncio.gather(
        *(
            sink.write(
                part(topic, n, source=source, changelog=TopicPartition(f"{topic}-log", source.partition), outputs={})
            )
            for n, source in enumerate(sources, 1)
        )
    )
    for source in sources:
        await sink.close("op", source)
    committed = await client.committed(f"{topic}-app")
    assert [committed[source] for source in sources] == [1, 2]


async def test_a_worker_whose_place_was_taken_writes_nothing_more(
    broker: Broker, client: BrokerClient, topic: str
) -> None:
    await create_lane_topics(client, topic)
    source = TopicPartition(f"{topic}-in", 0)
    older = broker.sink(f"{topic}-app")
    await older.open("op", source, TopicPartition(f"{topic}-log", 0))
    await older.write(part(topic, 10))
    newer = broker.rival(f"{topic}-app")
    await newer.open("op", source, TopicPartition(f"{topic}-log", 0))
    with pytest.raises(Fenced):
        await older.write(part(topic, 20))
    await newer.write(part(topic, 11))
    await older.close("op", source)
    await newer.close("op", source)
    await group_is_at(client, f"{topic}-app", source, 11)
    markers = [row.value for row in (await read_to_end(client, f"{topic}-log"))[0] if row.key == b"\x00marker"]
    assert markers == [b"10", b"11"]
