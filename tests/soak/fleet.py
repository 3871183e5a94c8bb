"""The workers of a soak on one log, with all jobs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.fault.topics import APP
from tests.soak.hasty_worker import FORGETFUL
from tests.soak.samples import Sample, sample
from tests.support.kafka import KafkaBroker
from tests.support.waiting import until
from tests.support.worker import Worker

LOGS = ("embedded", "kafka")
#: Everything that must happen in the end happens within this time.
DEADLINE = 180.0


@dataclass
class Member:
    """One worker and what was seen of it."""

    worker: Worker
    name: str
    #: a hot spare waits for its turn and is not ready all the while
    spare: bool = False
    samples: list[Sample] = field(default_factory=list)

    def look(self, seconds: float) -> Sample:
        self.samples.append(sample(self.worker, seconds))
        return self.samples[-1]


class Fleet:
    """Workers of one application; on the embedded log all but the first are hot spares."""

    def __init__(
        self, folder: Path, log: str, broker: str, count: int, env: Mapping[str, str], *, hasty: bool = False
    ) -> None:
        self.log = log
        command = [sys.executable, "-m", "tests.soak.hasty_worker"] if hasty else None
        self.folder = folder
        self.broker = broker
        self.members = [
            Member(
                Worker(folder / f"worker{number}", broker=broker, command=command, FAMULUS_APP_ID=APP, **env),
                name=f"{log} {number + 1}",
                spare=log == "embedded" and number > 0,
            )
            for number in range(count)
        ]

    @property
    def first(self) -> Worker:
        return self.members[0].worker

    def start(self) -> None:
        for member in self.members:
            member.worker.start()
            if member.spare:
                until(
                    lambda member=member: self._waits(member.worker),  # type: ignore[misc]
                    within=DEADLINE,
                    what="the spare waits for its turn",
                )
            else:
                member.worker.wait_ready(DEADLINE)
        for member in self.members:  # one that joined later took partitions of the others
            if not member.spare:
                member.worker.wait_ready(DEADLINE)

    def _waits(self, worker: Worker) -> bool:
        assert worker.running, f"a spare ended by itself:\n{worker.log_text()[-3000:]}"
        return worker.get("/livez") is not None and worker.get("/readyz") is None

    def stop(self) -> None:
        """All end in order, the spares first."""
        for member in reversed(self.members):
            code = member.worker.stop(within=30)
            assert code == 0, f"a worker did not end in order ({code}):\n{member.worker.log_text()[-3000:]}"

    def kill(self) -> None:
        for member in self.members:
            member.worker.kill()


@contextlib.contextmanager
def fleet(
    folder: Path, log: str, count: int, env: Mapping[str, str], *, broker: str | None = None, hasty: bool = False
) -> Iterator[Fleet]:
    """Workers that are still to be started, on a log of their own unless ``broker`` names one; whatever runs at the end is killed.

    ``hasty``: a broker for which a week passes in seconds, and workers that know it.
    """
    with contextlib.ExitStack() as stack:
        if broker is None and log == "kafka":
            started = KafkaBroker(folder / "kafka", extra=FORGETFUL if hasty else {})
            broker = stack.enter_context(started).url
        made = Fleet(folder, log, broker or f"embedded://{folder}/log", count, env, hasty=hasty)
        stack.callback(made.kill)
        yield made
