"""What a process and the machine have used so far, from /proc."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6


def peak_rss_mb(pid: int) -> float:
    """The most that a process had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def busy_seconds() -> float:
    """CPU time that the whole machine has spent on anything, stolen time included."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / TICKS


@dataclass(frozen=True)
class Reading:
    """CPU seconds of the processes of a run, one after the other, and of the machine."""

    at: float
    ours: tuple[float, ...]
    machine: float

    @classmethod
    def now(cls, *pids: int) -> Reading:
        return cls(time.monotonic(), tuple(cpu_seconds(pid) for pid in pids), busy_seconds())

    def cores(self, since: Reading) -> tuple[tuple[float, ...], float]:
        """Cores in use between two readings: by each process, and by everything else on this machine."""
        seconds = max(self.at - since.at, 1e-9)
        ours = tuple((now - then) / seconds for now, then in zip(self.ours, since.ours, strict=True))
        return ours, max(0.0, (self.machine - since.machine) / seconds - sum(ours))


def wait_for_quiet(others: float = 0.3, patience: float = 20.0) -> None:
    """Wait until the machine has little else to do, but not for ever: what was going on is printed beside each run."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before, at = busy_seconds(), time.monotonic()
        time.sleep(1.0)
        if (busy_seconds() - before) / (time.monotonic() - at) < others:
            return
