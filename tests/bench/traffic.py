"""Paced traffic and an observer of the alerts, as processes beside the system that is measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.peers.environment import peer_python
from tests.bench.systems import Job, end
from tests.support.worker import ROOT

#: transaction number, rule, time seen
Seen = tuple[int, str, float]


class Traffic:
    """The producer and the observer of one run."""

    def __init__(self, job: Job, rate: int, *, first: int = 0) -> None:
        self.job = job
        self.rate = rate
        self.first = first
        self.produced_file = job.folder / "produced"
        self.seen_file = job.folder / "seen"
        self.producer: subprocess.Popen[bytes] | None = None
        self.observer: subprocess.Popen[bytes] | None = None

    def observe(self) -> None:
        self.observer = self._start("watch", self.job.alerts, str(self.seen_file))

    def produce(self) -> None:
        self.producer = self._start("produce", self.job.input, str(self.rate), str(self.produced_file), str(self.first))

    def _start(self, what: str, topic: str, *rest: str) -> subprocess.Popen[bytes]:
        self.job.folder.mkdir(parents=True, exist_ok=True)
        bootstrap = self.job.broker.removeprefix("kafka://")
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with open(self.job.folder / f"{what}.log", "wb") as log:
            return subprocess.Popen(
                [*leash, peer_python(), "-m", "tests.bench.peers.paced", what, bootstrap, topic, *rest],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def stop_producing(self) -> dict[int, float]:
        """Transaction number -> time of its produce()."""
        assert self.producer is not None
        end(self.producer, 60)
        if self.producer.returncode:
            raise SystemExit(f"the producer failed:\n{(self.job.folder / 'produce.log').read_text()[-2000:]}")
        return {int(number): at for number, at in _lines(self.produced_file)}

    def seen(self) -> list[Seen]:
        """The alerts seen so far."""
        return [(int(number), str(rule), float(at)) for number, rule, at in _lines(self.seen_file)]

    def close(self) -> None:
        for process in (self.producer, self.observer):
            if process is not None and process.poll() is None:
                end(process)


def _lines(file: Path) -> list[list[Any]]:
    """Whole lines of a file that may still be growing."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
