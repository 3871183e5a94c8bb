"""The pace of background work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

from app.transport.embedded.log import Transaction
from app.transport.embedded.writer import Writer


class Stopped(Exception):
    """The process is closing the log; the work goes on another time."""


class Pace:
    """Keeps background work from crowding out the foreground: it rests as long as it worked (the GIL is shared)."""

    def __init__(self, writer: Writer, closed: threading.Event) -> None:
        self._writer = writer
        self._closed = closed
        self._since = perf_counter()

    def rest(self) -> None:
        """Raises :class:`Stopped`."""
        if self._closed.wait(perf_counter() - self._since):
            raise Stopped
        self._since = perf_counter()

    def write(self, work: Callable[[Transaction], None]) -> None:
        """One short write transaction, when the writer has nothing better to do.

        Raises :class:`models.errors.LogError`.
        """
        self._writer.submit_background(work).result()
        self._since = perf_counter()
