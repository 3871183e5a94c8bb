"""The one thread of a process that writes to the log, with group commit."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

from app.transport.embedded.files import explain, explained, open_log
from app.transport.embedded.gate import Gate
from app.transport.embedded.location import Location
from app.transport.embedded.log import Transaction
from models.errors import FamulusError, LogUnavailable
from models.time import Clock, SystemClock

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Jobs that share one SQLite transaction, and so one fsync.
GROUP = 64
#: Bytes written between two checkpoints.
CHECKPOINT_BYTES = 8 << 20
#: Seconds that background work waits for a quiet moment before it takes its turn anyway.
BACKGROUND_PATIENCE = 1.0


@dataclass(slots=True)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=monotonic)


class Writer:
    """Runs jobs inside write transactions, several jobs in one where they queue up.

    A job that raises one of the project's errors takes back its own changes only.  A job's result is set when its changes
    are on disk; if they cannot be written, every job of the group fails and nothing of it is stored.
    """

    def __init__(
        self, location: Location, on_commit: Callable[[Mapping[int, int]], None], clock: Clock | None = None
    ) -> None:
        self._location = location
        self._on_commit = on_commit
        self._clock = clock or SystemClock()
        self._db = open_log(location)
        try:
            with explained(location.directory):
                self._gate = Gate(location.directory)
        except BaseException:
            self._db.close()
            raise
        self._wake = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._background: deque[_Job] = deque()
        self._closing = False
        self._unchecked = 0
        self._thread = threading.Thread(target=self._run, name="embedded-log-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Transaction], T]) -> Future[T]:
        """Queue a job.  The future may be cancelled until the job starts; then nothing of it is written."""
        return self._queue(self._jobs, work)

    def submit_background(self, work: Callable[[Transaction], T]) -> Future[T]:
        """Queue a job that gives way to the others."""
        return self._queue(self._background, work)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._gate.close()
        self._db.close()

    def _queue(self, queue: deque[_Job], work: Callable[[Transaction], T]) -> Future[T]:
        job = _Job(work)
        with self._wake:
            if self._closing:
                raise LogUnavailable(f"{self._location.file} is closed in this process")
            queue.append(job)
            self._wake.notify()
        return job.future

    def _run(self) -> None:
        while jobs := self._take():
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs:
                self._commit(jobs)
            if self._unchecked > CHECKPOINT_BYTES:
                self._checkpoint()

    def _take(self) -> list[_Job]:
        """The next group; empty when the writer is closed."""
        with self._wake:
            while not self._jobs and not self._background:
                if self._closing:
                    return []
                self._wake.wait()
            if self._background and (not self._jobs or monotonic() - self._background[0].since > BACKGROUND_PATIENCE):
                return [self._background.popleft()]
            return [self._jobs.popleft() for _ in range(min(GROUP, len(self._jobs)))]

    def _commit(self, jobs: list[_Job]) -> None:
        done: list[tuple[_Job, Any]] = []
        ends: dict[int, int] = {}
        execute = self._db.execute
        try:
            with self._gate:
                execute("BEGIN IMMEDIATE")
                for job in jobs:
                    execute("SAVEPOINT job")
                    transaction = Transaction(self._db, self._clock.now_ms())
                    try:
                        done.append((job, job.work(transaction)))
                    except sqlite3.Error:
                        raise
                    except Exception as exc:  # handed to the one who asked; the other jobs go on
                        execute("ROLLBACK TO job")
                        job.future.set_exception(exc)
                    else:
                        ends.update(transaction.ends)
                        self._unchecked += transaction.size
                execute("COMMIT")
        except (sqlite3.Error, OSError) as exc:
            self._undo()
            error = explain(exc, self._location.file) if isinstance(exc, sqlite3.Error) else self._os_error(exc)
            logger.error("write refused: %s", error)
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
            return
        for job, result in done:
            job.future.set_result(result)
        if ends:
            self._on_commit(ends)

    def _os_error(self, exc: OSError) -> FamulusError:
        return LogUnavailable(f"{self._location.directory}: {exc.strerror or exc}; check the disk and its mount")

    def _undo(self) -> None:
        # SQLite has rolled back by itself after some errors (disk full, I/O).
        if self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error as exc:
                logger.error("rollback failed, the next write will tell: %s", explain(exc, self._location.file))

    def _checkpoint(self) -> None:
        """Move what is committed from the write-ahead log into the file.  What was answered is durable already."""
        self._unchecked = 0
        try:
            with self._gate:
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except (sqlite3.Error, OSError) as exc:
            logger.warning("checkpoint of %s put off: %s", self._location.file, exc)
