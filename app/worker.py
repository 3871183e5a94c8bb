"""Faust's worker, whose log says in one line why it ends."""

from __future__ import annotations

import gc
import itertools
import logging

import faust
from mode import Service

from models.errors import FamulusError

#: A worker holds a hundred thousand fetched records at a time and makes next to no cycles.  With Python's thresholds (700, 10, 10) looking
#: through them takes 13 to 25 % of its CPU under full load, with these next to nothing.
COLLECT_AFTER = 200_000, 20, 100
#: A worker with little to do comes to these numbers after days only, and each connection of asyncio leaves a cycle of 1 kB: 25 MB of probes.
#: So what is young is looked through every so many seconds, too, and every so many times what is a little older.
COLLECT_SECONDS = 20.0
COLLECT_OLDER = 30
#: What mode says, with nothing about the reason, after every end by an error.
_LAST_WORDS = "We experienced a crash! Reraising original exception..."


class OneLine(logging.Filter):
    """Errors that Famulus raises on purpose are written for people: their text is logged once, and no traceback of it.

    What ended the worker (a line that begins with FATAL) is not told again by each service that ends with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: list[BaseException] = []

    def filter(self, record: logging.LogRecord) -> bool:
        text, args = str(record.msg), record.args if isinstance(record.args, tuple) else ()
        error = record.exc_info[1] if record.exc_info else None
        if any(one is told for told in self._told for one in (error, *args)) or (self._told and _LAST_WORDS in text):
            return False
        if isinstance(error, FamulusError):
            record.msg, record.args = "FATAL %s: %s", (type(error).__name__, error)
            record.exc_info, record.exc_text = None, None
            record.levelno, record.levelname = logging.CRITICAL, "CRITICAL"
            self._told.append(error)
        elif text.startswith("FATAL "):
            self._told += (one for one in args if isinstance(one, BaseException))
        return True


class LaneWorker(faust.Worker):
    """The worker of ``faust -A app worker``."""

    async def on_start(self) -> None:
        gc.freeze()  # modules and the application stay
        gc.set_threshold(*COLLECT_AFTER)
        await super().on_start()

    @Service.task
    async def _collect(self) -> None:
        for number in itertools.count(1):
            await self.sleep(COLLECT_SECONDS)
            if self.should_stop:
                return
            gc.collect(1 if number % COLLECT_OLDER == 0 else 0)

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        super().on_setup_root_logger(logger, level)
        for handler in logger.handlers:
            handler.addFilter(OneLine())
