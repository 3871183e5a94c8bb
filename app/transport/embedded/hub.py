"""Who waits for new records, and how they hear of them: at once from this process, within 20 ms from others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Mapping

from app.transport.embedded.log import Log

logger = logging.getLogger(__name__)

#: Seconds between two looks at what other processes committed (5 us each).
LOOK_INTERVAL = 0.02


class Bell:
    """Wakes one task when one of the partitions it cares for has grown.  ``partitions`` holds row ids."""

    def __init__(self) -> None:
        self.partitions: frozenset[int] = frozenset()
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        """From the loop's own thread."""
        self._event.set()

    def ring_from_thread(self) -> None:
        # The loop may be closing while the last commit is announced.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    def silence(self) -> None:
        """Forget earlier rings.  Call before looking for records, so that no ring is lost."""
        self._event.clear()

    async def wait(self, timeout: float) -> bool:
        """``True`` when it rang within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class Hub:
    """Known end offsets of a log, kept up by this process's writer and by a thread that looks for other processes' commits."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._log = Log(db)
        self._lock = threading.Lock()
        self._ends: dict[int, int] = {}
        self._bells: set[Bell] = set()
        self._needed = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="embedded-log-watcher", daemon=True)
        self._thread.start()

    def add(self, bell: Bell) -> None:
        with self._lock:
            self._bells.add(bell)
            self._needed.set()

    def discard(self, bell: Bell) -> None:
        with self._lock:
            self._bells.discard(bell)
            if not self._bells and not self._closed.is_set():
                self._needed.clear()

    def announce(self, ends: Mapping[int, int]) -> None:
        """Partitions have grown to these end offsets."""
        with self._lock:
            grown = {row_id for row_id, end in ends.items() if end > self._ends.get(row_id, -1)}
            for row_id in grown:
                self._ends[row_id] = ends[row_id]
            bells = [bell for bell in self._bells if not grown.isdisjoint(bell.partitions)]
        for bell in bells:
            bell.ring_from_thread()

    def close(self) -> None:
        self._closed.set()
        self._needed.set()
        self._thread.join()
        self._log.db.close()

    def _watch(self) -> None:
        seen = None
        while not self._closed.is_set():
            self._needed.wait()
            try:
                version = self._log.db.execute("PRAGMA data_version").fetchone()[0]
                if version != seen:
                    self.announce({row_id: bounds.end for row_id, bounds in self._log.bounds().items()})
                    seen = version
            except sqlite3.Error as exc:
                # Readers meet the same fault and report it to their callers; here it must only not end the watch.
                logger.warning("looking for new records failed: %s", exc)
                self._closed.wait(1.0)
            self._closed.wait(LOOK_INTERVAL)
