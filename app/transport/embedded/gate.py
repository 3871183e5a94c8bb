"""The turn of processes at the log's one write lock.

SQLite's own waiting is a sleep and a new try: a process that commits in a loop starves the others for seconds.  Here a
writer first takes the turnstile, then the write lock, and lets the turnstile go: whoever just wrote has to queue behind
the one that is waiting.  Both are ``flock`` locks, so waiting costs nothing and the kernel drops them at kill -9.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


class Gate:
    """Context manager around a write transaction; used by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._turnstile = os.open(directory / "turnstile.lock", flags, 0o644)
        self._write = os.open(directory / "write.lock", flags, 0o644)

    def __enter__(self) -> None:
        fcntl.flock(self._turnstile, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._write, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._turnstile)
        os.close(self._write)
