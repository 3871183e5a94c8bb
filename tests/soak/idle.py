"""Hours in which nothing arrives: memory, CPU and the log stay as they are, and the first record afterwards finds the worker awake.

Some transactions are judged first, so that there is state, and some at the end; alerts and state of both are compared with the oracle.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from app.activity import activity
from app.simulate import Past
from app.traffic import produce_all
from app.transport.client import BrokerClient, NewRecord
from models.time import SystemClock
from models.topics import TopicNames
from tables.log import LogReader, TopicPartition
from tests.fault.report import Report
from tests.fault.topics import APP, lag, seed_topics
from tests.soak.fleet import DEADLINE, Fleet
from tests.soak.samples import ends, grown, looking
from tests.soak.traffic import times
from tests.soak.verdict import Flatness, Limits, judge
from tests.support.waiting import until_async
from tests.support.workload import transactions

#: Visits at the end, for the jobs that judge no transactions.
VISITS = 50
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long nothing arrives and how often to look, in seconds; transactions before and again after."""

    seconds: float
    every: float = 10.0
    burst: int = 2_000
    seed: int = 1
    limits: Limits = field(default_factory=Limits)


@dataclass
class Outcome:
    """What was found on one log."""

    workers: dict[str, Flatness]
    #: topic to offsets that it has grown by in the idle time, first quarter and the rest
    early: dict[str, int]
    written: dict[str, int]
    report: Report
    #: source records of all jobs that were not worked off in the end
    left: int

    @property
    def flat(self) -> bool:
        return (
            not any(one.wrong for one in self.workers.values())
            and not self.written
            and self.report.exact
            and not self.left
        )


class Watch:
    """One log and its workers while nothing arrives."""

    def __init__(self, fleet: Fleet, plan: Plan) -> None:
        self.fleet = fleet
        self._plan = plan
        self._sent = transactions(2 * plan.burst, seed=plan.seed, users=500)
        self._stack = contextlib.AsyncExitStack()
        self._ends: list[tuple[float, dict[TopicPartition, int]]] = []
        self._client: BrokerClient
        self._reader: LogReader

    async def begin(self) -> None:
        """The workers run and have judged the first transactions."""
        await seed_topics(self.fleet.broker)
        await asyncio.to_thread(self.fleet.start)
        self._client, self._reader = await self._stack.enter_async_context(looking(self.fleet.broker))
        await self._burst()

    async def close(self) -> None:
        await self._stack.aclose()

    async def look(self, seconds: float) -> None:
        self._ends.append((seconds, await ends(self._client, self._reader)))
        for member in self.fleet.members:
            await asyncio.to_thread(member.look, seconds)

    def said(self) -> str:
        """The last look, in a line."""
        (_, first), (_, last) = self._ends[0], self._ends[-1]
        parts = []
        for member in self.fleet.members:
            one, start = member.samples[-1], member.samples[0]
            share = (one.cpu - start.cpu) / max(1e-9, one.seconds - start.seconds)
            parts.append(f"{member.name}: {one.memory:.1f} MB {share:.2%} CPU{'' if one.ready else ' not ready'}")
        return f"{'; '.join(parts)}; log {grown(first, last) or 'unchanged'}"

    async def finish(self) -> Outcome:
        """Transactions again, and everything is compared."""
        written, early = self._written()
        report = Report(seed=self._plan.seed, transactions=0, name=f"{self.fleet.log} after {self._plan.seconds:.0f} s")
        awake = time.monotonic()
        await self._burst()
        report.ready_seconds.append(time.monotonic() - awake)
        await asyncio.to_thread(report.compare, self.fleet.broker, self.fleet.first)
        left = await self._other_jobs()
        workers = {
            member.name: judge(member.samples, self._plan.limits, ready=not member.spare)
            for member in self.fleet.members
        }
        await asyncio.to_thread(self.fleet.stop)
        return Outcome(workers, early, written, report, left)

    def _written(self) -> tuple[dict[str, int], dict[str, int]]:
        """Growth of the log after the first quarter, and in it."""
        quarter = self._plan.seconds / 4
        settled = next(found for seconds, found in self._ends if seconds >= quarter)
        return grown(settled, self._ends[-1][1]), grown(self._ends[0][1], settled)

    async def _burst(self) -> None:
        part = [NewRecord(user.encode(), value) for user, value in islice(self._sent, self._plan.burst)]
        for start in range(0, len(part), 100):
            await self._client.append(TopicNames.TRANSACTIONS, part[start : start + 100])
        await until_async(self._worked_off, within=DEADLINE, what="all transactions are worked off", every=0.1)

    async def _worked_off(self) -> bool:
        return await lag(self.fleet.broker) == 0

    async def _other_jobs(self) -> int:
        """Visits, orders and payments: what is left of them after a while."""
        now_ms = SystemClock().now_ms()
        past = Past(total=20 * VISITS, start_ms=now_ms - 3_600_000, end_ms=now_ms)
        await produce_all(self._client, activity(self._plan.seed, past), lambda _: None)
        sources = (TopicNames.USER_EVENTS, TopicNames.ORDERS, TopicNames.PAYMENTS, TopicNames.ENRICHED_USER_EVENTS)
        left = 0

        async def worked_off() -> bool:
            nonlocal left
            committed = await self._client.committed(APP)
            found = await ends(self._client, self._reader)
            left = sum(end - committed.get(tp, 0) for tp, end in found.items() if tp.topic in sources)
            return left == 0

        with contextlib.suppress(AssertionError):  # the outcome says so
            await until_async(worked_off, within=DEADLINE, what="all visits are worked off", every=0.3)
        return left


async def run(fleets: Sequence[Fleet], plan: Plan, say: Say) -> list[Outcome]:
    """All logs side by side, so that an hour of nothing takes an hour."""
    async with contextlib.AsyncExitStack() as stack:
        watches = []
        for fleet in fleets:
            watches.append(Watch(fleet, plan))
            stack.push_async_callback(watches[-1].close)
            say(f"{fleet.log}: {len(fleet.members)} workers, {plan.burst} transactions, then nothing")
            await watches[-1].begin()
        started = time.monotonic()
        for due in times(plan.seconds, plan.every):
            await asyncio.sleep(max(0.0, started + due - time.monotonic()))
            for watch in watches:
                await watch.look(time.monotonic() - started)
                say(f"{due:6.0f} s  {watch.said()}")
        return [await watch.finish() for watch in watches]
