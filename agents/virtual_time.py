"""An asyncio event loop whose clock is a number: nothing waits, and time passes as far as the test says."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Instead of waiting it moves the loop's clock, or stops the loop where the clock may not go on."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        loop = self.loop
        if timeout is not None and loop.now + timeout <= loop.limit:
            loop.now += timeout
        elif timeout is None and loop.patience:
            return super().select(loop.patience)  # something real, a thread perhaps, is under way
        else:
            loop.stop()
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs until nothing is ready and the next timer lies beyond ``limit`` (seconds of the virtual clock).

    It may be used from within another running loop: then it runs in a thread of its own, and the caller waits.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.limit = 0.0
        #: seconds of real time to wait for real events when no virtual timer is set
        self.patience = 0.0
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.now

    def run_to(self, limit: float) -> None:
        """Do everything that is due up to a time, and set the clock there."""
        self.limit = limit
        self._apart(self.run_forever)
        self.now = max(self.now, limit)

    def settle(self) -> None:
        """Do everything that is due now."""
        self.run_to(self.now)

    def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, however far the clock has to go."""
        self.limit = float("inf")
        self.patience = 10.0
        try:
            result: T = self._apart(lambda: self.run_until_complete(work))
            return result
        finally:
            self.patience = 0.0

    def _apart(self, call: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return call()
        result: list[Any] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                result.append(call())
            except BaseException as exc:
                failure.append(exc)

        thread = threading.Thread(target=run, name="virtual-time")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        task = context.get("task")
        if task is not None and not task.done():
            return  # forgotten together with its loop, as by a test that ends with calls in flight
        super().call_exception_handler(context)

    def __del__(self) -> None:
        if not self.is_closed():  # nothing outside depends on it, so forgetting it is the way to end it
            self.close()

    def discard(self) -> None:
        """Cancel what is left and close."""
        tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            self.complete(_gathered(tasks))
        self.close()


async def _gathered(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
