"""Faust's fetcher, the service that drains the consumer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from faust.transport import base
from mode import Service


class Fetcher(base.Fetcher):
    """Faust's fetcher, stoppable at any time.

    The base class needs a supervisor when it is stopped during a rebalance (it has none), and a second ``stop`` while the
    first one waits brings the service back to life.
    """

    _stopping: asyncio.Future[None] | None = None

    async def stop(self) -> None:
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
            return
        self._stopping = asyncio.get_running_loop().create_future()
        try:
            await super().stop()
        finally:
            self._stopping.set_result(None)
            self._stopping = None

    @Service.task
    async def _fetcher(self) -> None:
        try:
            await cast(Any, self.app.consumer)._drain_messages(self)
        except asyncio.CancelledError:
            self.log.dev("fetcher stopped")
        finally:
            self.set_shutdown()
