"""A slow or broken network between workers and a broker: forwards TCP with a delay, and can leave connections half open."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from types import TracebackType

#: A lost packet comes again after about so long.
RETRANSMISSION_SECONDS = 0.6


class Proxy:
    """Listens on ``port`` and forwards to ``target``, in a thread of its own.

    Every piece of data is ``delay`` seconds under way, and with the probability ``loss`` a retransmission longer; order is kept, as in TCP.
    """

    def __init__(self, port: int, target: int, *, delay: float = 0.0, loss: float = 0.0) -> None:
        self.port = port
        self.delay = delay
        self.loss = loss
        self._target = target
        self._random = random.Random(port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        #: connections from before this number say nothing any more
        self._silent_before = 0
        self._number = 0

    def half_open(self) -> None:
        """What is connected now hears nothing more, and is not told; new connections work."""
        self._silent_before = self._number + 1

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        self._number += 1
        number = self._number
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        pumps = [asyncio.create_task(self._pump(number, *ends)) for ends in ((reader, back), (there, writer))]
        try:
            # The proxy ends by cancelling this; asyncio would report the task that it made for the connection.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, back):
                end.close()

    async def _pump(self, number: int, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Bytes in order, each piece late."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)
        delivering = asyncio.create_task(self._deliver(number, under_way, target))
        try:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(1 << 16):
                    extra = RETRANSMISSION_SECONDS if self._random.random() < self.loss else 0.0
                    await under_way.put((self._loop.time() + self.delay + extra, data))
            if number < self._silent_before:
                await asyncio.Event().wait()  # its end is not heard of either
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    async def _deliver(
        self, number: int, under_way: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if number >= self._silent_before:
                    target.write(data)
                    await target.drain()
