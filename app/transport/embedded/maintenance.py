"""Retention and compaction, in the background of whichever process of the log is first to look after it."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading

from app.transport.embedded import compaction, retention
from app.transport.embedded.files import explained, open_log
from app.transport.embedded.location import Location
from app.transport.embedded.log import Log
from app.transport.embedded.pace import Pace, Stopped
from app.transport.embedded.writer import Writer
from models.errors import LogError
from models.time import Clock, SystemClock

logger = logging.getLogger(__name__)

#: Seconds between two rounds, and before the first: short commands never get there.
INTERVAL = 10.0


class Maintenance:
    """A thread that cleans the log every ten seconds, unless another process is at it."""

    def __init__(self, location: Location, writer: Writer, clock: Clock | None = None) -> None:
        self._location = location
        self._writer = writer
        self._clock = clock or SystemClock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embedded-log-cleaner", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            try:
                self.round()
            except Stopped:
                return
            except LogError as exc:
                logger.warning("cleaning the log failed, next try in %s s: %s", INTERVAL, exc)

    def round(self) -> None:
        """Apply every topic's policy once.  Raises :class:`models.errors.LogError`."""
        with explained(self._location.file):
            lock = os.open(self._location.directory / "cleaner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                db = open_log(self._location, read_only=True)
                try:
                    self._clean(db)
                finally:
                    db.close()
            except BlockingIOError:
                return
            finally:
                os.close(lock)

    def _clean(self, db: sqlite3.Connection) -> None:
        log = Log(db)
        pace = Pace(self._writer, self._closed)
        for topic in log.topics().values():
            policy = topic.config.get("cleanup.policy", "delete").split(",")
            for row_id in topic.partitions:
                pace.rest()
                if "compact" in policy:
                    compaction.compact(log, row_id, topic.config, self._clock.now_ms(), pace)
                if "delete" in policy:
                    retention.expire(log, row_id, topic.config, self._clock.now_ms(), pace)
