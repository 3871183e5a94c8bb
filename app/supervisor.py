"""Several workers on one machine under one parent, which restarts those that end.

Each worker is a process of its own with a web port of its own: the first has ``FAMULUS_WEB_PORT``, the next ones the ports after it.

The parent handles no record and opens no connection.  It imports what a worker imports, once, and workers are forks of it: starting one
again takes a third of the time, and their modules lie in memory once.  Where forking is not safe (not on Linux), they import by themselves.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from importlib.metadata import entry_points
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from app.collector import no_collections
from models.errors import SettingsError

log = logging.getLogger(__name__)

#: A worker ends with this code when its settings are wrong: starting it again would not help.
WRONG_USAGE = 2
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FORKS = sys.platform == "linux"
#: What a worker imports, first to last; the rest comes with it.
_IMPORTED = (
    "faust.cli.faust",
    "faust.cli.worker",
    "app.factory",
    "faust.assignor.partition_assignor",
    "faust.tables.objects",
    "faust.web.drivers.aiohttp",
)
_DRIVERS = {"kafka": "app.transport.kafka.driver", "embedded": "app.transport.embedded.driver"}


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
    port: int
    process: BaseProcess | None = None
    started: float = 0.0
    failures: int = 0
    start_at: float = 0.0


@dataclass
class Supervisor:
    """Runs ``processes`` workers until it is told to stop.

    ``work`` is what each of them does, in a process of its own; it can be pickled, and its exit code is that of a ``SystemExit``.
    """

    work: Callable[[], object]
    processes: int
    first_port: int
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
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        ports = range(self.first_port, self.first_port + self.processes)
        self._children = [_Child(number, port) for number, port in enumerate(ports)]
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
                    child.process = self._start(child)
                    child.started = now
                continue
            code = child.process.exitcode
            if code is None:
                continue
            child.process.close()
            child.process = None
            if code == WRONG_USAGE:
                return WRONG_USAGE
            lived = now - child.started
            child.failures = 1 if lived > self.policy.healthy_after.total_seconds() else child.failures + 1
            delay = self.policy.delay(child.failures)
            child.start_at = now + delay
            log.warning("worker %d ended with code %d; it is started again in %.1f s", child.number, code, delay)
        return 0

    def _start(self, child: _Child) -> BaseProcess:
        context: Any = multiprocessing.get_context("fork" if _FORKS else "spawn")
        process: BaseProcess = context.Process(
            target=_run, args=(self.work, child.port, os.getpid()), name=f"famulus-worker-{child.number}"
        )
        # Blocked until the child has handlers of its own: one of ours would lose the signal.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process

    def _end(self) -> int:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self.policy.grace.total_seconds()
        code = 0
        for process in running:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                log.error("a worker did not end within %.0f s and is killed", self.policy.grace.total_seconds())
                process.kill()
                process.join()
            # Told before it could listen, it had done nothing yet: that is in order, too.
            code = max(code, 0 if process.exitcode in (0, -signal.SIGTERM) else 1)
        return code


def preload(scheme: str) -> None:
    """Import what workers on a broker of this scheme import, so that their forks need not."""
    if not _FORKS:
        return
    with no_collections():
        for module in (*_IMPORTED, _DRIVERS[scheme]):
            import_module(module)
        for entry in entry_points(group="famulus.web"):
            entry.load()
    gc.freeze()  # a collection in a worker would write to what all of them share, and so copy it


def _run(work: Callable[[], object], port: int, parent: int) -> None:
    """A worker's life, from the start of its process on."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _end_with_parent(parent)
    logging.basicConfig(handlers=[], force=True)  # Faust sets its own up
    os.environ["FAMULUS_WEB_PORT"] = str(port)
    work()


def _end_with_parent(parent: int) -> None:
    """If the parent is killed, this process is told to end, too.  (Linux only; elsewhere it goes on.)"""
    # Ctrl-C reaches the whole terminal; the parent alone passes it on, once.
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # killed before we asked to be told
            os.kill(os.getpid(), signal.SIGTERM)


def count_of(text: str) -> int:
    """Number of processes meant by ``auto`` (one per core) or a number."""
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"--processes {text}: use a number from 1 to 256, or auto") from None
