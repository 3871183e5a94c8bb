"""A broker that goes away comes back: what a worker does before it is ready is begun again, however long that takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from models.errors import LogUnreachable

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two attempts: at first, and at most.
AGAIN_SECONDS = 0.5
LONGEST_SECONDS = 5.0


async def outlast(what: str, attempt: Callable[[], Awaitable[T]], give_up: Callable[[], bool]) -> T:
    """Result of ``attempt``, which is made again whenever no broker answers.  It must undo what it left half done.

    Raises what else it raises, and :class:`models.errors.LogUnreachable` when to ``give_up``, which is asked after each failure.
    """
    pause = AGAIN_SECONDS
    while True:
        try:
            return await attempt()
        except LogUnreachable as error:
            if give_up():
                raise
            log.warning("%s is begun again in %.1f s: %s", what, pause, error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_SECONDS)


async def all_ended(work: Iterable[Awaitable[object]]) -> None:
    """Do everything side by side; raises the first failure, after all have ended one way or the other."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
