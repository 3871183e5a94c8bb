"""Steady traffic of all jobs, whose event time runs faster than the clock: sessions, orders and windows come and go, users come back.

After a while as much is forgotten as is learnt: memory, rows of state, the changelogs and the local copies on disk stay as large as they
are.  What is judged is not compared with the oracle here, that is what the fault campaign is for; everything must be worked off.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from app.simulate import Timeline
from app.traffic import produce_live, traffic
from app.transport.client import BrokerClient
from models.time import Millis, SystemClock
from models.topics import TopicNames
from tables.log import LogReader
from tests.fault.topics import APP, seed_topics
from tests.soak import changelogs
from tests.soak.changelogs import Held
from tests.soak.fleet import DEADLINE, Fleet
from tests.soak.samples import ends, folder_bytes, looking
from tests.soak.verdict import Flatness, Limits, Series, judge, plateau
from tests.support.waiting import until_async

#: What the jobs read.
SOURCES = (
    TopicNames.TRANSACTIONS,
    TopicNames.USER_EVENTS,
    TopicNames.ORDERS,
    TopicNames.PAYMENTS,
    TopicNames.ENRICHED_USER_EVENTS,
)
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``rate`` transactions a second of ``users``, whose time runs ``speed`` times as fast; a look every so many seconds."""

    seconds: float
    every: float = 10.0
    rate: float = 500.0
    speed: float = 60.0
    users: int = 1_000
    seed: int = 1
    limits: Limits = field(default_factory=lambda: Limits(memory_mb=8.0, cpu=1.0, cpu_rise=0.05, handles=3))
    #: growth of rows, changelogs and local copies that is still a plateau
    growth: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Accelerated(Timeline):
    """Event time of the soak, both as the simulation's timeline and as the clock that says what is due."""

    start_ms: Millis
    began: float
    plan: Plan

    @property
    def total(self) -> int | None:
        return None

    def users(self) -> int:
        return self.plan.users

    def time_at(self, position: float) -> Millis:
        return self.start_ms + int(position / self.plan.rate * self.plan.speed * 1000)

    def now_ms(self) -> Millis:
        return self.start_ms + int((time.monotonic() - self.began) * self.plan.speed * 1000)


@dataclass
class Outcome:
    """What was found on one log."""

    workers: dict[str, Flatness]
    #: what was measured to its size in the middle and at the end
    sizes: dict[str, tuple[float, float]]
    wrong: list[str]
    produced: int
    #: records that were waiting, at most, at a look
    most_lag: int
    left: int

    @property
    def flat(self) -> bool:
        return not any(one.wrong for one in self.workers.values()) and not self.wrong and not self.left


class Flow:
    """One log, its workers and their traffic."""

    def __init__(self, fleet: Fleet, plan: Plan) -> None:
        self.fleet = fleet
        self._plan = plan
        self._stack = contextlib.AsyncExitStack()
        self._client: BrokerClient
        self._reader: LogReader
        self._producing: asyncio.Task[None]
        self._produced = 0
        self._lags: list[int] = []
        self._held: list[tuple[float, Held]] = []
        self._disk: list[tuple[float, float]] = []

    async def begin(self) -> None:
        self._client, self._reader = await self._stack.enter_async_context(looking(self.fleet.broker))
        await changelogs.make(self._client)
        await seed_topics(self.fleet.broker)
        await asyncio.to_thread(self.fleet.start)
        plan = self._plan
        # It ends before now, for what lies ahead of the clock is refused.
        start_ms = SystemClock().now_ms() - int((plan.seconds + DEADLINE) * plan.speed * 1000)
        line = Accelerated(start_ms=start_ms, began=time.monotonic(), plan=plan)
        self._producing = asyncio.ensure_future(
            produce_live(self._client, traffic(plan.seed, line), lambda made: self._count(len(made)), line)
        )
        self._stack.push_async_callback(self._stop_producing)

    def _count(self, records: int) -> None:
        self._produced += records

    async def _stop_producing(self) -> None:
        self._producing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._producing

    async def close(self) -> None:
        await self._stack.aclose()

    async def look(self, seconds: float) -> None:
        self._lags.append(await self._lag())
        for member in self.fleet.members:
            await asyncio.to_thread(member.look, seconds)
        self._held.append((seconds, await changelogs.held(self._client)))
        folders = [member.worker.folder / "data" for member in self.fleet.members]
        self._disk.append((seconds, sum(map(folder_bytes, folders)) / 1e6))

    async def _lag(self) -> int:
        committed = await self._client.committed(APP)
        found = await ends(self._client, self._reader)
        return sum(end - committed.get(tp, 0) for tp, end in found.items() if tp.topic in SOURCES)

    def said(self) -> str:
        """The last look, in a line."""
        held = self._held[-1][1]
        workers = "; ".join(f"{one.name}: {one.samples[-1].memory:.1f} MB" for one in self.fleet.members)
        return (
            f"{workers}; {self._produced} records, {self._lags[-1]} waiting; {sum(held.rows.values())} rows, changelogs {held.records} "
            f"records {held.size / 1e6:.1f} MB; disk {self._disk[-1][1]:.1f} MB"
        )

    async def finish(self) -> Outcome:
        """No more traffic; everything is worked off."""
        await self._stop_producing()
        left = 0

        async def worked_off() -> bool:
            nonlocal left
            left = await self._lag()
            return left == 0

        with contextlib.suppress(AssertionError):  # the outcome says so
            await until_async(worked_off, within=DEADLINE, what="everything is worked off", every=0.3)
        wrong, sizes = [], {}
        for what, series in self._series().items():
            sizes[what], growth = plateau(series)
            if growth > self._plan.growth:
                wrong.append(f"{what} grew by {growth:.0%}")
        workers = {one.name: judge(one.samples, self._plan.limits, ready=not one.spare) for one in self.fleet.members}
        await asyncio.to_thread(self.fleet.stop)
        return Outcome(workers, sizes, wrong, self._produced, max(self._lags), left)

    def _series(self) -> dict[str, Series]:
        return {
            **{
                f"rows of {name}": [(at, held.rows.get(name, 0)) for at, held in self._held]
                for name in changelogs.names()
            },
            "changelog records": [(at, held.records) for at, held in self._held],
            "changelog MB": [(at, held.size / 1e6) for at, held in self._held],
            "local copies MB": self._disk,
        }


async def run(fleets: Sequence[Fleet], plan: Plan, say: Say) -> list[Outcome]:
    """All logs side by side."""
    async with contextlib.AsyncExitStack() as stack:
        flows = []
        for fleet in fleets:
            flows.append(Flow(fleet, plan))
            stack.push_async_callback(flows[-1].close)
            say(
                f"{fleet.log}: {len(fleet.members)} workers, {plan.rate:.0f} transactions a second and what belongs to them"
            )
            await flows[-1].begin()
        started = time.monotonic()
        for due in times(plan.seconds, plan.every):
            await asyncio.sleep(max(0.0, started + due - time.monotonic()))
            for flow in flows:
                await flow.look(time.monotonic() - started)
                say(f"{due:6.0f} s  {flow.said()}")
        return [await flow.finish() for flow in flows]


def times(seconds: float, every: float) -> Iterator[float]:
    """When to look, from 0 to the end."""
    for number in range(int(seconds / every) + 1):
        yield number * every
