"""One active worker per log and application; the others wait for its place."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from pathlib import Path
from urllib.parse import quote

from app.transport.embedded.engine import Engine
from app.transport.embedded.location import Location
from models.errors import Fenced

logger = logging.getLogger(__name__)

#: Seconds between two tries of a hot spare.
RETRY = 0.05


class WorkerLock:
    """Held by the active worker.

    The lock is ``flock`` on a file, which the kernel drops when the process dies, so a spare takes over within
    ``RETRY`` and with no time-out to choose.  With it goes a generation number in the log, checked inside every commit: if
    the file lock was lost all the same (the file deleted by hand, a file system without locks), the older worker is fenced.
    """

    def __init__(self, location: Location, app_id: str) -> None:
        self.app_id = app_id
        self._location = location
        self._fd: int | None = None
        self._generation: int | None = None
        self._acquiring = asyncio.Lock()
        #: what this process waits for while another worker is active, in words
        self.waiting_for: str | None = None

    @property
    def path(self) -> Path:
        return self._location.directory / f"worker-{quote(self.app_id, safe='')}.lock"

    @property
    def held(self) -> bool:
        return self._generation is not None

    @property
    def generation(self) -> int:
        """Raises :class:`models.errors.Fenced` when the lock is not held."""
        if self._generation is None:
            raise Fenced(
                f"this process is not the active worker of application {self.app_id!r}; start it again to join as a spare"
            )
        return self._generation

    async def acquire(self, engine: Engine) -> None:
        """Wait until this process is the active worker; does nothing if it is."""
        async with self._acquiring:
            if not self.held:
                await self._acquire(engine)

    async def _acquire(self, engine: Engine) -> None:
        try:
            while not self._try():
                if self.waiting_for is None:
                    self.waiting_for = (
                        f"another worker ({self._holder()}) is active for application {self.app_id!r} on "
                        f"{self._location.directory}: standing by to take its place"
                    )
                    logger.warning("%s", self.waiting_for)
                await asyncio.sleep(RETRY)
            self._generation = await engine.write(lambda transaction: transaction.begin_generation(self.app_id))
        except BaseException:
            self.release()
            raise
        finally:
            waited, self.waiting_for = self.waiting_for, None
        if waited:
            logger.warning("the other worker is gone: taking over application %r", self.app_id)

    def release(self) -> None:
        """Let the next worker in.  Does nothing if the lock is not held."""
        fd, self._fd, self._generation = self._fd, None, None
        if fd is not None:
            os.close(fd)

    def _try(self) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A file deleted between open and flock locks nobody out.
            if os.fstat(fd).st_ino == self.path.stat().st_ino:
                os.ftruncate(fd, 0)
                os.write(fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
                self._fd = fd
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return False

    def _holder(self) -> str:
        with contextlib.suppress(OSError):
            return self.path.read_text(errors="replace").strip() or "just starting"
        return "unknown"
