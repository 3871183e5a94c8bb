"""Looks at what PostgreSQL sends before the driver does.

asyncpg's parser is compiled and believes the lengths that it reads: a message or a column with a negative one, as something that only looks
like PostgreSQL may send, makes it read memory that is not its own, and ends the whole worker.  So whole messages are passed on, and only
those whose lengths can be true; anything else fails the connection, as a broken one does.

A message is a type (one byte), its length (int32, itself included) and the rest; a row is the number of columns (int16) and each column's
length (int32, -1 for NULL) and bytes.  See "Message Formats" in PostgreSQL's manual.
"""

from __future__ import annotations

import asyncio
from struct import Struct

#: Of messages that servers send.
TYPES = frozenset(b"123ACDEGHIKNRSTVWZcdnstv")
#: A longer message is refused.  An answer to us has a few hundred bytes per row, and each row is a message.
MAX_MESSAGE = 16 << 20

_ROW = ord("D")
_head = Struct("!Bi").unpack_from
_count = Struct("!h").unpack_from
_length = Struct("!i").unpack_from
_HEAD_BYTES = 5


class NotPostgres(ConnectionError):
    """What was received cannot be from PostgreSQL."""


class CheckedMessages(asyncio.Protocol):
    """Stands between a transport and ``inner``, the driver's protocol, once the connection is made."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        """Raises :class:`NotPostgres`, which ends the connection."""
        received = self._received
        received += data
        end = whole_messages(received)
        if end:
            self._inner.data_received(bytes(received[:end]))
            del received[:end]

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def whole_messages(received: bytes | bytearray) -> int:
    """How many of the bytes are whole messages.  Raises :class:`NotPostgres`."""
    start = 0
    while len(received) - start >= _HEAD_BYTES:
        kind, length = _head(received, start)
        if kind not in TYPES or not 4 <= length <= MAX_MESSAGE:
            raise NotPostgres(
                f"received a message of type {kind} and length {length}; is it PostgreSQL that listens there?"
            )
        end = start + 1 + length
        if end > len(received):
            break
        if kind == _ROW:
            _check_row(received, start + _HEAD_BYTES, end)
        start = end
    return start


def _check_row(received: bytes | bytearray, start: int, end: int) -> None:
    at = start + 2
    columns = _count(received, start)[0] if at <= end else -1
    for _ in range(columns):
        length = _length(received, at)[0] if at + 4 <= end else -2
        if length < -1:
            break
        at += 4 + max(0, length)
    else:
        if columns >= 0 and at == end:
            return
    raise NotPostgres("received a row whose columns do not fit it; is it PostgreSQL that listens there?")
