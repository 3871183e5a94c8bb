"""Days of probes in minutes: what each request leaves behind is collected in the end.

An idle worker does next to nothing else, so this is what its memory does over days.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.machine import rss_mb
from tests.soak.fleet import Fleet
from tests.soak.verdict import plateau
from tests.support.worker import Worker

#: As an orchestrator and Prometheus ask, each on a connection of its own.
PATHS = ("/livez", "/readyz", "/metrics")
#: Rounds: days of a probe every ten seconds.
ROUNDS = 8_000
#: So slow that the worker gets to collect in between.
PAUSE_SECONDS = 0.005
LOOKS = 40
#: Growth after the first quarter that is still a plateau; what was not collected yet rises and falls.
GROWTH = 0.03
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """Memory in MB of one worker, before, after three eighths and in the end at most, and what could not be answered."""

    name: str
    before: float
    memory: tuple[float, float]
    growth: float
    unanswered: int

    @property
    def flat(self) -> bool:
        return self.growth <= GROWTH and not self.unanswered


def run(fleet: Fleet, say: Say, *, rounds: int = ROUNDS) -> list[Outcome]:
    """Ask each worker that is ready, one after the other."""
    fleet.start()
    found = [_ask(member.worker, member.name, rounds, say) for member in fleet.members if not member.spare]
    fleet.stop()
    return found


def _ask(worker: Worker, name: str, rounds: int, say: Say) -> Outcome:
    if worker.process is None:
        raise AssertionError(f"{name} has not been started")
    pid, began = worker.process.pid, time.monotonic()
    series = [(0.0, rss_mb(pid))]
    unanswered = 0
    for number in range(1, rounds + 1):
        for path in PATHS:
            unanswered += not _answered(worker.port, path)
            time.sleep(PAUSE_SECONDS)
        if number % max(1, rounds // LOOKS) == 0:
            series.append((float(number), rss_mb(pid)))
    memory, growth = plateau(series)
    say(f"{name}: {rounds * len(PATHS)} requests in {time.monotonic() - began:.0f} s")
    return Outcome(name, series[0][1], memory, growth, unanswered)


def _answered(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status == 200
    except OSError:
        return False
    finally:
        connection.close()
