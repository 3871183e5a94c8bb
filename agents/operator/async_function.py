"""Functions that wait for something outside: a database, a cache, another service.  What drives them is ``agents.async_io``."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Generic, TypeVar

from agents.operator.metrics import OperatorMetrics
from models.errors import FamulusError, StateError
from models.time import length, millis

I = TypeVar("I")  # noqa: E741  (input, output: the letters of Flink's signatures)
O = TypeVar("O")  # noqa: E741


class AsyncTimeout(FamulusError):
    """A call took longer than its ``timeout``, and the function has no fallback: define ``timeout(event)`` to have one."""


def any_error(error: Exception) -> bool:
    """The predicate that retries every exception."""
    return True


#: exceptions as ``except`` takes them
Errors = type[Exception] | tuple[type[Exception], ...]


def _retries(wanted: Callable[[Exception], bool] | Errors, error: Exception) -> bool:
    if isinstance(wanted, (type, tuple)):
        return isinstance(error, wanted)
    return wanted(error)


@dataclass(frozen=True, kw_only=True)
class FixedRetry:
    """Try ``attempts`` times in all, ``delay`` apart.

    ``retry_error`` says which exceptions are worth another try (a predicate, or the exception's class or several of them), ``retry_result``
    which results are (none unless given).  When the last attempt fails, its exception is the record's; its result counts whatever ``retry_result`` says.
    """

    attempts: int = 3
    delay: timedelta = timedelta(milliseconds=100)
    retry_error: Callable[[Exception], bool] | Errors = any_error
    retry_result: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        _check_attempts(self.attempts)
        length(self.delay, "delay")

    def retries(self, error: Exception) -> bool:
        """Whether an exception is worth another try."""
        return _retries(self.retry_error, error)

    def delays(self) -> Iterator[float]:
        """Seconds to wait before the second attempt, the third and so on."""
        for _ in range(self.attempts - 1):
            yield self.delay.total_seconds()


@dataclass(frozen=True, kw_only=True)
class ExponentialRetry:
    """As :class:`FixedRetry`, with delays that grow by ``factor`` from ``first`` up to ``most``.

    ``jitter`` (0 to 1) is the part of each delay that is left to chance, so that callers that failed together do not come back together.
    """

    attempts: int = 5
    first: timedelta = timedelta(milliseconds=50)
    factor: float = 2.0
    most: timedelta = timedelta(seconds=5)
    jitter: float = 0.5
    retry_error: Callable[[Exception], bool] | Errors = any_error
    retry_result: Callable[[Any], bool] | None = None
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        _check_attempts(self.attempts)
        length(self.first, "first")
        length(self.most, "most")
        if self.factor < 1:
            raise StateError(f"factor={self.factor}: delays grow by it, so it is 1 at least")
        if not 0 <= self.jitter <= 1:
            raise StateError(f"jitter={self.jitter}: the part of a delay that is left to chance lies between 0 and 1")

    def retries(self, error: Exception) -> bool:
        """Whether an exception is worth another try."""
        return _retries(self.retry_error, error)

    def delays(self) -> Iterator[float]:
        """Seconds to wait before the second attempt, the third and so on."""
        delay, most = self.first.total_seconds(), self.most.total_seconds()
        for _ in range(self.attempts - 1):
            yield min(delay, most) * (1 - self.jitter * self.chance())
            delay = min(delay * self.factor, most)


Retry = FixedRetry | ExponentialRetry


@dataclass(frozen=True, kw_only=True)
class AsyncOptions:
    """How calls are made.  ``capacity``: calls in flight per worker, so make connection pools that large."""

    ordered: bool = True
    capacity: int = 100
    timeout: timedelta | None = timedelta(seconds=5)
    retry: Retry | None = None


class AsyncFunction(Generic[I, O]):
    """Turns each record into results by waiting for something.  One instance per worker; it has no keyed state.

    ``ordered``: results leave in the order of the records of a partition; otherwise as they come (``unordered=True`` says the same as
    ``ordered=False``).  ``capacity``: records in hand at most
    (ordered: until their results have left); the source waits beyond that.  ``timeout``: for a record in all, retries included;
    ``None`` waits for ever.  A record counts as processed once its results are durable, so a crash loses none and doubles none.

    ``metrics``: ``counter``, ``gauge``, ``histogram`` and ``meter`` by name, as a context's.
    """

    #: of a function that does not call ``super().__init__``
    options = AsyncOptions()

    @cached_property
    def metrics(self) -> OperatorMetrics:
        return OperatorMetrics()

    def __init__(
        self,
        *,
        ordered: bool | None = None,
        unordered: bool | None = None,
        capacity: int = 100,
        timeout: timedelta | None = timedelta(seconds=5),
        retry: Retry | None = None,
    ) -> None:
        if ordered is not None and unordered is not None and ordered == unordered:
            raise StateError(f"ordered={ordered} and unordered={unordered} contradict each other: give one of them")
        if not isinstance(capacity, int) or capacity < 1:
            raise StateError(f"capacity={capacity!r}: a whole number of calls, one at least")
        if timeout is not None and millis(timeout) < 1:
            raise StateError(f"timeout={timeout}: a millisecond at least, or None to wait for ever")
        if retry is not None and not isinstance(retry, (FixedRetry, ExponentialRetry)):
            raise StateError(f"retry={retry!r}: give a FixedRetry(attempts=3) or an ExponentialRetry(...)")
        if ordered is None:
            ordered = not unordered
        self.options = AsyncOptions(ordered=ordered, capacity=capacity, timeout=timeout, retry=retry)

    async def open(self) -> None:
        """Called once before the first record, in the worker's event loop: connect here."""

    async def close(self) -> None:
        """Called once after the last call."""

    async def invoke(self, event: I) -> O | list[O] | None:
        """The result for a record, a list of results, or ``None`` for nothing.  An exception sends the record to the dead letter topic."""
        raise NotImplementedError

    def timeout(self, event: I) -> O | list[O] | None:
        """What to emit for a record whose call took too long; without an answer here, a dead letter."""
        raise AsyncTimeout(f"no answer within {self.options.timeout}")


def _check_attempts(attempts: int) -> None:
    if not isinstance(attempts, int) or attempts < 1:
        raise StateError(f"attempts={attempts!r}: a whole number, one at least, since the first attempt counts, too")
