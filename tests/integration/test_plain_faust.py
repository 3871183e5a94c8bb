"""Plain Faust on the embedded log: agents, tables, windows and global tables, through restarts, kills and takeovers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from app.transport.brokers import connect
from app.transport.client import BrokerClient, NewRecord
from tables.log import LogReader, TopicPartition
from tests.support.waiting import until
from tests.support.worker import Worker

DEADLINE = 30.0
FAUST = [str(Path(sys.executable).with_name("faust")), "-A", "tests.integration.plain_app", "worker", "-l", "info"]


def plain_worker(folder: Path, guarantee: str = "exactly_once") -> Worker:
    return Worker(folder, command=[*FAUST, "--without-web"], GUARANTEE=guarantee)


class Job:
    """What goes into the application and what comes out."""

    def __init__(self, client: BrokerClient, reader: LogReader) -> None:
        self.client = client
        self._reader = reader
        self.sent: Counter[str] = Counter()
        self.results: list[dict[str, Any]] = []

    async def pay(self, count: int, users: int = 7) -> None:
        keys = [f"u{n % users}" for n in range(count)]
        self.sent.update(keys)
        await self.client.append("payments", [NewRecord(key.encode(), str(n).encode()) for n, key in enumerate(keys)])

    async def wait_for(self, count: int) -> None:
        """Until there are so many results."""
        deadline = monotonic() + DEADLINE
        while len(self.results) < count:
            assert monotonic() < deadline, f"{len(self.results)} of {count} results"
            for part in await self._reader.poll(0.5):
                self.results += [json.loads(record.value or b"") for record in part.records]

    def counts(self) -> dict[str, list[int]]:
        seen = defaultdict(list)
        for result in self.results:
            seen[result["user"]].append(result["count"])
        return seen

    def exact(self) -> dict[str, list[int]]:
        return {user: list(range(1, count + 1)) for user, count in self.sent.items()}


@asynccontextmanager
async def job(folder: Path) -> AsyncIterator[Job]:
    async with connect(f"embedded://{folder}/log") as client:
        for topic, partitions in (("payments", 4), ("limits", 1), ("results", 4)):
            await client.create_topic(topic, partitions)
        reader = client.reader()
        await reader.start()
        reader.assign({TopicPartition("results", partition): 0 for partition in range(4)})
        try:
            yield Job(client, reader)
        finally:
            await reader.stop()


async def test_exactly_once_counts_each_record_once_through_kill_and_restart(tmp_path: Path) -> None:
    async with job(tmp_path) as work:
        await work.pay(300)
        with plain_worker(tmp_path) as worker:
            await work.wait_for(300)
            await work.pay(3000)
            await work.wait_for(600)  # in the middle of the work
            worker.kill()
            worker.start()
            await work.pay(200)
            await work.wait_for(3500)
            assert worker.stop() == 0
        assert work.counts() == work.exact()
        assert max(result["recent"] for result in work.results) > 1
        committed = await work.client.committed("plain")
        assert sum(offset for tp, offset in committed.items() if tp.topic == "payments") == 3500


async def test_at_least_once_loses_nothing_when_killed_and_repeats_nothing_when_stopped(tmp_path: Path) -> None:
    async with job(tmp_path) as work:
        await work.pay(500)
        with plain_worker(tmp_path, "at_least_once") as worker:
            await work.wait_for(500)
            assert worker.stop() == 0
            worker.start()
            await work.pay(500)
            await work.wait_for(1000)
            assert work.counts() == work.exact()
            await work.pay(2000)
            await work.wait_for(1300)
            worker.kill()
            worker.start()
            await work.pay(100, users=1)
            until_all_seen = {(result["user"], result["value"]) for result in work.results}
            wanted = {(f"u{n % 7}", str(n)) for n in range(2000)} | {("u0", str(n)) for n in range(100)}
            deadline = monotonic() + DEADLINE
            while not wanted <= until_all_seen:
                assert monotonic() < deadline, f"{len(wanted - until_all_seen)} records were lost"
                await work.wait_for(len(work.results) + 1)
                until_all_seen = {(result["user"], result["value"]) for result in work.results}
        highest = {user: max(numbers) for user, numbers in work.counts().items()}
        assert all(highest[user] >= count for user, count in work.sent.items())


async def test_a_global_table_is_known_to_every_agent_and_after_a_restart(tmp_path: Path) -> None:
    async with job(tmp_path) as work:
        await work.client.append("limits", [NewRecord(b"u0", b"10"), NewRecord(b"u1", b"20"), NewRecord(b"u0", b"30")])
        with plain_worker(tmp_path) as worker:
            deadline = monotonic() + DEADLINE
            while (await work.client.committed("plain")).get(TopicPartition("limits", 0)) != 3:
                assert monotonic() < deadline, "the limits are not read"
                await asyncio.sleep(0.05)
            await work.pay(14)
            await work.wait_for(14)
            assert worker.stop() == 0
            worker.start()
            await work.pay(14)
            await work.wait_for(28)
        limits = {(result["user"], result["limit"]) for result in work.results}
        assert limits == {("u0", 30), ("u1", 20), *((f"u{n}", 0) for n in range(2, 7))}


async def test_a_topic_added_at_run_time_is_read_and_nobody_counts_twice(tmp_path: Path) -> None:
    async with job(tmp_path) as work:
        for topic in ("late", "echoes"):
            await work.client.create_topic(topic, 4)
        await work.client.append("late", [NewRecord(b"k", b"hello")])
        await work.pay(3000)
        with Worker(tmp_path, command=[*FAUST, "--without-web"], LATE="yes") as worker:
            reader = work.client.reader()
            await reader.start()
            reader.assign({TopicPartition("echoes", partition): 0 for partition in range(4)})
            [echo] = await reader.poll(DEADLINE)
            await reader.stop()
            assert [record.value for record in echo.records] == [b"hello"]
            await work.pay(100)
            await work.wait_for(3100)
            assert worker.stop() == 0
        assert work.counts() == work.exact()


async def test_a_second_worker_stands_by_and_takes_over_when_the_first_dies(tmp_path: Path) -> None:
    async with job(tmp_path) as work:
        await work.pay(100)
        with plain_worker(tmp_path) as first:
            await work.wait_for(100)
            with Worker(tmp_path / "spare", broker=first.broker, command=first.command) as spare:
                until(lambda: "standing by to take its place" in spare.log_text(), within=DEADLINE, what="a spare")
                await work.pay(100)
                await work.wait_for(200)
                assert "taking over" not in spare.log_text(), "one worker at a time"
                first.kill()
                await work.pay(100)
                died = monotonic()
                await work.wait_for(300)
                assert monotonic() - died < 2.0
                assert spare.stop() == 0
        assert work.counts() == work.exact()


async def test_a_spare_steps_in_when_the_first_worker_is_stopped_in_order(tmp_path: Path) -> None:
    async with job(tmp_path) as work:
        with plain_worker(tmp_path) as first:
            await work.pay(50)
            await work.wait_for(50)
            with Worker(tmp_path / "spare", broker=first.broker, command=first.command) as spare:
                until(lambda: "standing by to take its place" in spare.log_text(), within=DEADLINE, what="a spare")
                assert first.stop() == 0
                await work.pay(50)
                await work.wait_for(100)
        assert work.counts() == work.exact()


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_worker_that_lost_its_place_ends_instead_of_committing(tmp_path: Path, guarantee: str) -> None:
    async with job(tmp_path) as work:
        with plain_worker(tmp_path, guarantee) as worker:
            await work.pay(50)
            await work.wait_for(50)
            (tmp_path / "log" / "worker-plain.lock").unlink()
            with Worker(tmp_path / "other", broker=worker.broker, command=worker.command, GUARANTEE=guarantee) as other:
                until(lambda: "Worker ready" in other.log_text(), within=DEADLINE, what="the second worker is active")
                await work.pay(50)
                until(lambda: not worker.running, within=DEADLINE, what="the first worker has ended")
                assert worker.process is not None
                assert worker.process.returncode != 0
                assert "another worker has taken over" in worker.log_text()
                assert other.running
