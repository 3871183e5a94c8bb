"""Lines of an input that may come at once or one an hour."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO

#: Bytes read at once, and what the reader may be ahead.
CHUNK = 1 << 20
#: A longer line is cut off and given as ``None``.
MAX_LINE = 64 << 20

#: Lines without their end; ``None`` in the place of one that is too long.
Lines = list[bytes | None]


async def lines_of(stream: BinaryIO) -> AsyncIterator[Lines]:
    """The lines as they come, many at a time when they come fast.

    A daemon thread reads, so that neither a silent input nor Ctrl-C in the middle of one holds up the event loop.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(2)

    def read() -> None:
        take = _reader_of(stream)
        while True:
            room.acquire()
            try:
                chunk: bytes | OSError = take()
            except OSError as error:
                chunk = error
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:  # the loop is closed: nobody wants the rest
                return
            if not chunk or isinstance(chunk, OSError):
                return

    threading.Thread(target=read, name="lines", daemon=True).start()
    splitter = _Splitter()
    while True:
        chunk = await chunks.get()
        room.release()
        if isinstance(chunk, OSError):
            raise chunk
        if lines := splitter.take(chunk):
            yield lines
        if not chunk:
            return


def _reader_of(stream: BinaryIO) -> Callable[[], bytes]:
    """Reads what there is, at least one byte unless the input has ended.

    Past Python's buffer where there is a descriptor: the buffer's lock, held by a thread that waits for input, would
    make the interpreter abort when it ends.
    """
    try:
        descriptor = stream.fileno()
    except OSError:  # a stream in memory
        return lambda: stream.read(CHUNK)
    return lambda: os.read(descriptor, CHUNK)


class _Splitter:
    """Cuts chunks into lines; an empty chunk is the end of the input."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def take(self, chunk: bytes) -> Lines:
        if not chunk:
            return [self._line(b"")] if self._parts or self._size else []
        *whole, rest = chunk.split(b"\n")
        lines = [self._line(part) for part in whole]
        self._keep(rest)
        return lines

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MAX_LINE:
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _line(self, part: bytes) -> bytes | None:
        self._keep(part)
        line = None if self._size > MAX_LINE else b"".join(self._parts)
        self._parts, self._size = [], 0
        return line
