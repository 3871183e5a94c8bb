"""Workers are killed again and again while transactions arrive; then everything is compared with the oracle.

Compared are the outputs (every alert once, none missing, none twice), their order per user, and the state (each user's history over
HTTP).  The oracle recomputes both from the input topic alone.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fault.failing_worker import points
from tests.fault.report import Report
from tests.fault.topics import APP, lag, read_topic, seed_topics
from tests.support.waiting import until
from tests.support.worker import ROOT, Worker

__all__ = ["APP", "Plan", "Report", "lag", "read_topic", "run", "seed_topics"]

#: A worker that has lost its place says so in its last words.
TAKEN_OVER = "another worker has taken over"
#: Faults of a group of several workers, besides the kills at points and at random times: gone until others have taken over, paused
#: until then, or told to end.
GROUP_FAULTS = ("away", "paused", "told to end")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run.  Times in seconds."""

    seed: int
    kills: int
    #: transactions at most, and a second
    count: int
    rate: float = 400.0
    #: transactions that are stored before the first worker starts
    waiting: int = 0
    guarantee: str = "exactly_once"
    store: str = "memory"
    workers: int = 1
    #: until the group gives a silent worker up
    session: float = 4.0
    #: how long a worker may live that does not meet its failpoint
    patience: float = 6.0
    #: for everything that must happen in the end; a busy machine is slow
    deadline: float = 180.0
    #: between two local snapshots
    snapshot_every: float = 0.5

    def environ(self) -> dict[str, str]:
        return {
            "FAMULUS_APP_ID": APP,
            "FAMULUS_PROCESSING_GUARANTEE": self.guarantee,
            "FAMULUS_STORE": f"{self.store}://",
            "FAULT_SNAPSHOT_SECONDS": str(self.snapshot_every),
            "FAULT_SESSION_SECONDS": str(self.session),
        }

    def name(self, transport: str) -> str:
        return f"{transport} {self.guarantee} {self.store} {self.workers} seed {self.seed}"


class Fleet:
    """Workers of one application, and a process that appends transactions."""

    def __init__(self, folder: Path, plan: Plan, *, broker: str | None = None) -> None:
        self.folder = folder
        self.plan = plan
        self.workers = [self._worker(folder, number, broker) for number in range(plan.workers)]
        self.broker = self.workers[0].broker
        transport = "kafka" if self.on_kafka else "embedded"
        self.report = Report(
            seed=plan.seed,
            transactions=0,
            name=plan.name(transport),
            # The embedded log has no weaker mode.
            repeats_allowed=self.on_kafka and plan.guarantee == "at_least_once",
        )
        self.producing: subprocess.Popen[bytes] | None = None

    def _worker(self, folder: Path, number: int, broker: str | None) -> Worker:
        return Worker(
            folder / f"worker{number}",
            broker=broker or f"embedded://{folder}/log",
            command=[sys.executable, "-m", "tests.fault.failing_worker"],
            **self.plan.environ(),
        )

    @property
    def on_kafka(self) -> bool:
        return self.broker.startswith("kafka://")

    def produce(self) -> None:
        """Topics and rules, and transactions from now on."""
        asyncio.run(seed_topics(self.broker))
        plan = self.plan
        arguments = [self.broker, str(plan.count), str(plan.seed), str(plan.rate), str(plan.waiting)]
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "producer.log", "wb") as said:
            command = [sys.executable, "-m", "tests.fault.producer", *arguments]
            self.producing = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        if plan.waiting:
            until(
                lambda: self.lag() >= plan.waiting, within=plan.deadline, what=f"{plan.waiting} transactions are stored"
            )

    def stop_producing(self) -> None:
        """Whatever was appended by now is the input."""
        if self.producing is not None:
            self.producing.terminate()
            assert self.producing.wait(self.plan.deadline) == 0, f"the producer failed: {self.folder}/producer.log"

    def lag(self) -> int:
        return asyncio.run(lag(self.broker))

    def work_off(self) -> None:
        until(lambda: self.lag() == 0, within=self.plan.deadline, what="all transactions are worked off", every=0.5)

    def ready(self) -> Worker | None:
        """A worker that is ready, if there is one."""
        for worker in self.workers:
            assert worker.running, f"a worker ended by itself:\n{worker.log_text()[-4000:]}"
            if worker.get("/readyz") is not None:
                return worker
        return None

    def all_ready(self) -> bool:
        return all(worker.get("/readyz") is not None for worker in self.workers if worker.running)

    def finish(self) -> Report:
        """No more faults: everything is worked off and compared, and the workers end in order."""
        self.stop_producing()
        started = time.monotonic()
        for worker in self.workers:
            worker.env.pop("FAILPOINT", None)
            if not worker.running:
                worker.start()
        if self.on_kafka:
            until(self.all_ready, within=self.plan.deadline, what="all workers are ready", every=0.1)
        until(lambda: self.ready() is not None, within=self.plan.deadline, what="a worker is ready", every=0.1)
        self.report.ready_seconds.append(time.monotonic() - started)
        self.work_off()
        answering = self.ready()
        assert answering is not None, "no worker is ready any more"
        self.report.compare_state(self.broker, answering)
        for worker in self.workers:
            assert worker.stop(within=30) == 0, f"a worker did not end in order:\n{worker.log_text()[-3000:]}"
        self.report.compare_outputs(self.broker)
        return self.report

    def end(self) -> None:
        """Whatever still runs is killed."""
        for worker in self.workers:
            worker.kill()
        if self.producing is not None:
            self.producing.kill()
            self.producing.wait(10)


@contextmanager
def fleet(folder: Path, plan: Plan, *, broker: str | None = None) -> Iterator[Fleet]:
    """Transactions arrive from the beginning on; workers are not started yet."""
    made = Fleet(folder, plan, broker=broker)
    try:
        made.produce()
        yield made
    finally:
        made.end()


class Victim:
    """One worker of a fleet and the lives that it loses."""

    def __init__(self, worker: Worker, plan: Plan, chance: random.Random, report: Report) -> None:
        self._worker = worker
        self._plan = plan
        self._chance = chance
        self._report = report
        self._kind = ""
        self._started = 0.0
        self._asked = 0.0
        self._patience = 0.0
        self._ready_at = 0.0
        self._then: Callable[[], bool] | None = None

    def tend(self) -> None:
        """Begin a life, look whether it is over, or end it."""
        if self._then is not None:
            if self._then():
                self._then = None
            return
        if not self._kind:
            self._begin()
        elif not self._worker.running:
            self._over()
        elif time.monotonic() > self._until():
            self._end()
        else:
            self._look()

    def _begin(self) -> None:
        plan, worker, chance = self._plan, self._worker, self._chance
        kafka = worker.broker.startswith("kafka://")
        armed = points(kafka=kafka, exactly_once=plan.guarantee == "exactly_once", rocksdb=plan.store == "rocksdb")
        group = GROUP_FAULTS if plan.workers > 1 else ("told to end",)
        self._kind = chance.choice([*armed, *armed, "random", "random", *group])
        worker.env.pop("FAILPOINT", None)
        self._patience = chance.uniform(0.5, plan.patience)
        if self._kind in armed:
            # Early and late: the first passages are often those of a start.
            worker.env["FAILPOINT"] = f"{self._kind}:{chance.choice((1, 2, 3, 5, 8, 13, 21))}"
            self._patience = plan.patience
        self._ready_at = 0.0
        self._started = time.monotonic()
        worker.start()

    def _until(self) -> float:
        """When this life ends at the latest: an armed worker is given its time once it works, however slow the machine is."""
        if "FAILPOINT" not in self._worker.env:
            return self._started + self._patience
        return (self._ready_at or self._started + 60) + self._patience

    def _look(self) -> None:
        now = time.monotonic()
        if not self._ready_at and now - self._asked > 0.15:
            self._asked = now
            if self._worker.get("/readyz") is not None:
                self._ready_at = time.monotonic()
                self._report.ready_seconds.append(self._ready_at - self._started)

    def _over(self) -> None:
        assert self._worker.process is not None
        code = self._worker.process.returncode
        if code == -signal.SIGKILL:
            self._count(self._kind, at_point=True)
        elif code == 1 and self._plan.workers > 1 and TAKEN_OVER in self._worker.log_text():
            self._count("fenced")
        else:
            raise AssertionError(
                f"a worker ended by itself with {code}: {self._worker.log_file}\n{self._worker.log_text()[-3000:]}"
            )

    def _end(self) -> None:
        kind, worker = self._kind, self._worker
        assert worker.process is not None
        longer = time.monotonic() + 1.3 * self._plan.session + 1
        if kind == "told to end":
            worker.process.send_signal(signal.SIGTERM)
            until_over = time.monotonic() + 30

            def told() -> bool:
                assert time.monotonic() < until_over, f"it does not end when told: {worker.log_file}"
                if worker.running:
                    return False
                assert worker.process is not None
                code = worker.process.returncode
                fenced = code == 1 and TAKEN_OVER in worker.log_text()
                assert code == 0 or fenced or self._early(code), (
                    f"it did not end in order ({code}):\n{worker.log_text()[-3000:]}"
                )
                return True

            self._then = told
        elif kind == "paused":
            worker.process.send_signal(signal.SIGSTOP)

            def paused() -> bool:
                if time.monotonic() < longer:
                    return False
                assert worker.process is not None
                worker.process.send_signal(signal.SIGCONT)
                # It may be fenced now or live on; it is killed later like any other.
                self._kind, self._started, self._patience = "after a pause", time.monotonic(), 6.0
                return True

            self._then = paused
        else:
            worker.kill()
            if kind == "away":
                self._then = lambda: time.monotonic() > longer
        self._count(kind)
        if kind == "paused":
            self._kind = kind

    def _early(self, code: int | None) -> bool:
        """Told to end before it could listen."""
        return code in (-signal.SIGTERM, 143) and not self._ready_at

    def _count(self, kind: str, *, at_point: bool = False) -> None:
        self._report.kills += 1
        self._report.at_points += at_point
        self._report.kinds[kind if at_point or kind not in points(kafka=True) else f"{kind} not met"] += 1
        self._kind = ""


def run(folder: Path, plan: Plan, *, broker: str | None = None) -> Report:
    """One campaign: ``plan.kills`` faults while transactions arrive and are worked off."""
    chance = random.Random(plan.seed)
    with fleet(folder, plan, broker=broker) as workers:
        victims = [Victim(worker, plan, random.Random(chance.random()), workers.report) for worker in workers.workers]
        while workers.report.kills < plan.kills:
            for victim in victims:
                victim.tend()
            time.sleep(0.02)
        for worker in workers.workers:
            if worker.process is not None:
                worker.kill()
        return workers.finish()
