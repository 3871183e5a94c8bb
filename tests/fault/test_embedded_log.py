"""The embedded log under kill -9 and on a full disk: what was acknowledged is there, at the offset that was told."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic, sleep

import pytest

from app.transport.brokers import connect
from tables.log import TopicPartition

ROOT = Path(__file__).parents[2]
PARTITIONS = 3
DEADLINE = 60.0

#: Appends for ever and prints, for each record acknowledged: value, partition, offset.
PRODUCER = """
import asyncio, itertools, sys
from app.transport.brokers import connect
from app.transport.client import NewRecord

async def main(url, name):
    async with connect(url) as client:
        await client.create_topic("t", 3)
        for number in itertools.count():
            values = [f"{name}-{number}-{i}" for i in range(number % 7 + 1)]
            placed = await client.append("t", [NewRecord(value.encode(), value.encode()) for value in values])
            for value, (partition, offset) in zip(values, placed):
                print(value, partition, offset)
            sys.stdout.flush()

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""

FULL_DISK = """
import asyncio, resource, sys
from app.transport.brokers import connect
from app.transport.client import NewRecord
from models.errors import LogUnavailable

async def main(url):
    async with connect(url) as client:
        await client.create_topic("t", 3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, resource.RLIM_INFINITY))
        acknowledged = 0
        try:
            while True:
                await client.append("t", [NewRecord(b"k", bytes(100_000), partition=0)])
                acknowledged += 1
        except LogUnavailable as error:
            print(acknowledged, error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await client.append("t", [NewRecord(b"k", b"again", partition=0)])

asyncio.run(main(sys.argv[1]))
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class Acknowledged:
    """Collects what a producer says it has stored, while it runs."""

    def __init__(self, producer: subprocess.Popen[str]) -> None:
        self.producer = producer
        self.places: dict[str, tuple[int, int]] = {}
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        assert self.producer.stdout is not None
        for line in self.producer.stdout:
            fields = line.split()
            if len(fields) == 3 and line.endswith("\n"):  # kill -9 may cut the last line
                self.places[fields[0]] = (int(fields[1]), int(fields[2]))

    def wait_for(self, count: int) -> None:
        deadline = monotonic() + DEADLINE
        while len(self.places) < count:
            assert monotonic() < deadline, "the producer is stuck"
            assert self.producer.poll() is None, "the producer has ended"
            sleep(0.01)

    def kill(self) -> None:
        self.producer.kill()
        self.producer.wait()
        self._thread.join()
        for pipe in (self.producer.stdout, self.producer.stderr):
            assert pipe is not None
            pipe.close()


async def stored(url: str) -> dict[str, tuple[int, int]]:
    """Every record by value; fails when a partition's offsets have a hole."""
    places: dict[str, tuple[int, int]] = {}
    tps = [TopicPartition("t", partition) for partition in range(PARTITIONS)]
    async with connect(url) as client:
        reader = client.reader()
        await reader.start()
        try:
            reader.assign(dict.fromkeys(tps, 0))
            ends = await reader.end_offsets(tps)
            position = dict.fromkeys(tps, 0)
            while position != ends:
                for part in await reader.poll(1.0):
                    for offset, record in enumerate(part.records, position[part.tp]):
                        assert record.offset == offset
                        places[(record.value or b"")[:64].decode()] = (part.tp.partition, record.offset)
                    position[part.tp] = part.next_offset
        finally:
            await reader.stop()
    return places


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_acknowledged_is_lost_when_producers_are_killed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    url = f"embedded://{tmp_path}/log"
    acknowledged: dict[str, tuple[int, int]] = {}
    for round_ in range(3):
        producers = [Acknowledged(start(PRODUCER, url, f"{round_}{name}")) for name in "ab"]
        for producer in producers:
            producer.wait_for(rng.randrange(1, 150))
        for producer in producers:
            producer.kill()
            acknowledged |= producer.places
    places = await stored(url)
    assert {value: places.get(value) for value in acknowledged} == acknowledged


async def test_a_full_disk_refuses_what_it_cannot_store_and_takes_more_once_there_is_room(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/log"
    with start(FULL_DISK, url) as producer:
        out, err = producer.communicate(timeout=DEADLINE)
    count, _, message = out.partition(" ")
    assert (producer.returncode, "check the disk" in message) == (0, True), (out, err)
    async with connect(url) as client:
        reader = client.reader()
        await reader.start()
        tp = TopicPartition("t", 0)
        ends = await reader.end_offsets([tp])
        reader.assign({tp: 0})
        position = 0
        last = None
        while position < ends[tp]:
            for part in await reader.poll(1.0):
                position, last = part.next_offset, part.records[-1].value
        await reader.stop()
    assert 10 < int(count) < 60
    assert (position, last) == (int(count) + 1, b"again")
