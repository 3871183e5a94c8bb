"""Faust's worker, whose log says in one line why it ends."""

from __future__ import annotations

import itertools
import logging

import faust
from mode import Service

from app import memory
from models.errors import FamulusError

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
        memory.settle()
        await super().on_start()

    @Service.task
    async def _collect(self) -> None:
        for number in itertools.count(1):
            await self.sleep(memory.COLLECT_SECONDS)
            if self.should_stop:
                return
            memory.collect(number)

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        super().on_setup_root_logger(logger, level)
        for handler in logger.handlers:
            handler.addFilter(OneLine())
