"""Waiting for conditions: nothing in the tests sleeps and hopes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], *, within: float, what: str, every: float = 0.05) -> T:
    """The first true value of ``condition``; fails with ``what`` after ``within`` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:.0f} s: {what}")
        time.sleep(every)


async def until_async(condition: Callable[[], Any], *, within: float, what: str, every: float = 0.02) -> Any:
    """As :func:`until`, within an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + within
    while True:
        asked = condition()
        value = await asked if inspect.isawaitable(asked) else asked
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:.0f} s: {what}")
        await asyncio.sleep(every)
