"""Several workers on one machine under one parent, which restarts those that end.

Each worker is a process of its own with the same command line and a web port of its own: the first has ``FAMULUS_WEB_PORT``, the next ones
the ports after it.  The parent handles no record and opens no connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType

from models.errors import SettingsError

log = logging.getLogger(__name__)

#: A worker ends with this code when its settings are wrong: starting it again would not help.
WRONG_USAGE = 2
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How soon a worker that ended is started again: at once, and ever later while it keeps ending."""

    first: timedelta = timedelta(milliseconds=100)
    longest: timedelta = timedelta(seconds=30)
    #: a worker that lived so long had nothing wrong with it
    healthy_after: timedelta = timedelta(seconds=60)
    #: what workers get to end in order
    grace: timedelta = timedelta(seconds=15)

    def delay(self, failures: int) -> float:
        """Seconds before the start after the ``failures``-th early end in a row, counted from 1."""
        return min(self.first.total_seconds() * 4.0 ** (failures - 1), self.longest.total_seconds())


@dataclass
class _Child:
    number: int
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    start_at: float = 0.0


@dataclass
class Supervisor:
    """Runs ``processes`` workers until it is told to stop."""

    command: Sequence[str]
    processes: int
    first_port: int
    environ: Mapping[str, str]
    policy: RestartPolicy = RestartPolicy()
    _children: list[_Child] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= 256:
            raise SettingsError(f"--processes {self.processes}: use a number from 1 to 256, or auto")
        if self.first_port + self.processes - 1 > 65_535:
            raise SettingsError(
                f"FAMULUS_WEB_PORT={self.first_port}: {self.processes} workers need as many ports from there on"
            )

    def run(self) -> int:
        """Returns the exit code: 0 after an orderly end, 2 if a worker refused its settings, 1 if one did not end in order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        ports = range(self.first_port, self.first_port + self.processes)
        self._children = [
            _Child(number, {**self.environ, "FAMULUS_WEB_PORT": str(port)}) for number, port in enumerate(ports)
        ]
        log.info("%d workers; their web ports are %s", self.processes, ", ".join(map(str, ports)))
        code = 0
        try:
            while not self._stopping.is_set() and not code:
                code = self._tend()
                self._stopping.wait(0.02)
        finally:
            code = max(code, self._end())
        return code

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()

    def _tend(self) -> int:
        """Start what is due, notice what has ended; an exit code if nothing can be done any more."""
        now = time.monotonic()
        for child in self._children:
            if child.process is None:
                if now >= child.start_at:
                    child.process = subprocess.Popen(self.command, env=child.environ, preexec_fn=_end_with_parent)
                    child.started = now
                continue
            code = child.process.poll()
            if code is None:
                continue
            child.process = None
            if code == WRONG_USAGE:
                return WRONG_USAGE
            lived = now - child.started
            child.failures = 1 if lived > self.policy.healthy_after.total_seconds() else child.failures + 1
            delay = self.policy.delay(child.failures)
            child.start_at = now + delay
            log.warning("worker %d ended with code %d; it is started again in %.1f s", child.number, code, delay)
        return 0

    def _end(self) -> int:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self.policy.grace.total_seconds()
        code = 0
        for process in running:
            try:
                ended = process.wait(max(0.0, deadline - time.monotonic()))
                # Told before it could listen, it had done nothing yet: that is in order, too.
                code = max(code, 0 if ended in (0, -signal.SIGTERM) else 1)
            except subprocess.TimeoutExpired:
                log.error("a worker did not end within %.0f s and is killed", self.policy.grace.total_seconds())
                process.kill()
                process.wait()
                code = 1
        return code


def _end_with_parent() -> None:
    """In the child, before it runs: if the parent is killed, this process is told to end, too.  (Linux only; elsewhere it goes on.)"""
    # Ctrl-C reaches the whole terminal; the parent alone passes it on, once.
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def count_of(text: str) -> int:
    """Number of processes meant by ``auto`` (one per core) or a number."""
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"--processes {text}: use a number from 1 to 256, or auto") from None
