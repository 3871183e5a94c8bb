"""What drives an :class:`agents.operator.AsyncFunction`: calls in flight, in order or not, and what of them is done.

A record is done when its results are emitted.  The marker stands before the first record that is not.  With ``ordered`` nothing beyond it
is emitted, so a restart calls again for exactly the records after the marker.  Unordered results overtake: the offsets that are done
beyond the marker are a row of their own (state ``async/done``, key = source topic, MessagePack list of offsets), written in the same
atomic part as the results, and a restart skips them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from agents.operator.async_function import AsyncFunction
from agents.operator.checks import check_async
from agents.operator.driver import Emitted
from agents.operator.inputs import Input
from agents.operator.process import Context, encode_json
from agents.operator.reading import BAD_VALUE, read
from agents.operator.spec import Source, bad_record, refuse_drift
from agents.operator.user_functions import values_of
from models.errors import StateError
from models.time import Millis
from tables.changelog import NO_PART, Marker, Row, marker_row, row_prefix
from tables.log import Record
from tables.state import KeyedState
from tables.store import StateStore

_STATE = "async/done"
_decode_offsets = msgspec.msgpack.Decoder(list[int]).decode
_encode_offsets = msgspec.msgpack.Encoder().encode

#: Records done beyond one that is not, per partition (unordered).
MAX_AHEAD = 10_000


class AsyncCalls:
    """One function of a worker with its options: the calls of all partitions share its capacity."""

    def __init__(self, function: AsyncFunction[Any, Any]) -> None:
        check_async(function)
        self.function = function
        self.options = function.options
        self.slots = asyncio.Semaphore(self.options.capacity)
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the function, once."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self.function.open())
        await asyncio.shield(self._opening)

    async def close(self) -> None:
        """Close the function if it was opened; it may be opened again."""
        opening, self._opening = self._opening, None
        if opening is not None:
            await asyncio.gather(opening, return_exceptions=True)
            await self.function.close()

    async def call(self, event: Any) -> list[Any]:
        """The values for a record; raises what the last attempt raised."""
        limit = self.options.timeout
        try:
            async with asyncio.timeout(None if limit is None else limit.total_seconds()) as deadline:
                return values_of(await self._attempts(event))
        except TimeoutError:
            if not deadline.expired():
                raise  # the function's own
            return values_of(self.function.timeout(event))

    async def _attempts(self, event: Any) -> Any:
        retry = self.options.retry
        if retry is None:
            return await self.function.invoke(event)
        for delay in retry.delays():
            try:
                result = await self.function.invoke(event)
            except Exception as exc:
                if not retry.retries(exc):
                    raise
            else:
                if retry.retry_result is None or not retry.retry_result(result):
                    return result
            await asyncio.sleep(delay)
        return await self.function.invoke(event)


class _Entry:
    """A record in hand."""

    __slots__ = ("done", "failure", "holds_slot", "record", "values")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.done = False
        self.holds_slot = False
        self.values: list[Any] = []
        self.failure: BaseException | None = None


class AsyncTask:
    """The calls for one source partition; to its lane it looks like an :class:`agents.operator.driver.OperatorTask`."""

    #: time alone changes nothing here
    timed = False
    expiring = ()
    timer_errors: tuple[()] = ()

    def __init__(
        self,
        calls: AsyncCalls,
        source: Source,
        store: StateStore,
        *,
        partition: int = 0,
        uid: str = "",
        max_drift_ms: Millis = 1 << 62,
        encode: Callable[[Any], bytes] = encode_json,
        emitted: Callable[[], None],
    ) -> None:
        if source.allowed_lateness is not None:
            raise StateError(
                f"{type(calls.function).__name__} is an AsyncFunction, which gets late records as any other: leave allowed_lateness= to an "
                "operator before or after it"
            )
        self.source = source
        self.store = store
        self.function = calls.function
        self.context = Context(source.topic, partition, uid or type(calls.function).__name__, encode)
        self.metrics = self.context.metrics
        self.states: dict[str, KeyedState] = {}
        self.outputs: list[Emitted] = []
        self.refused: list[tuple[Record, BaseException]] = []
        self.inputs = (Input(source.checked(), store.markers.get(source.topic, Marker()), calls.call),)
        self.context.watermark_ms = self.inputs[0].watermark_ms
        self._encode = encode
        self._max_drift_ms = max_drift_ms
        self._calls = calls
        self._emitted = emitted
        self._entries: deque[_Entry] = deque()
        self._room = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._in_flight = self.metrics.gauge("calls_in_flight")
        self._row = row_prefix(_STATE) + source.topic.encode() + NO_PART
        rows = store.rows(_STATE)
        stored = rows.take_whole(source.topic.encode())
        #: offsets done in an earlier life, beyond the marker
        self._skip = set(_decode_offsets(stored)) if stored else set()
        self._logged: list[int] = sorted(self._skip)
        rows.attach(self)

    @property
    def next_offset(self) -> int:
        return self.inputs[0].next_offset

    @property
    def fetched(self) -> int:
        """Offset after the last record in hand or done."""
        return self._entries[-1].record.offset + 1 if self._entries else self.next_offset

    @property
    def sides(self) -> list[tuple[str, str, Any]]:
        return self.context._sides

    @property
    def in_flight(self) -> int:
        """Calls that have not answered yet."""
        return len(self._tasks)

    async def submit(
        self, records: Sequence[Record], next_offset: int, now_ms: Millis, room: Callable[[], Awaitable[bool]]
    ) -> None:
        """Start a call per record, waiting for a free slot.  ``room`` waits until results may be collected; false: give up."""
        await self._calls.open()
        self.context.processing_time_ms = now_ms
        self.function.metrics.at(now_ms)
        ordered = self._calls.options.ordered
        for record in records:
            if self._closed or not await room():
                return
            entry = _Entry(record)
            if record.offset in self._skip:
                self._skip.discard(record.offset)
                self._entries.append(entry)
                entry.done = True
                self._advance()
                continue
            event = self._decoded(entry)
            if entry.failure is not None:
                self._entries.append(entry)
                self._finish(entry)
                continue
            while not ordered and len(self._entries) >= MAX_AHEAD and not self._closed:
                self._room.clear()
                await self._room.wait()
            await self._calls.slots.acquire()
            if self._closed:
                self._calls.slots.release()
                return
            entry.holds_slot = True
            self._entries.append(entry)
            task = asyncio.get_running_loop().create_task(self._call(entry, event))
            self._tasks.add(task)
            task.add_done_callback(self._landed)
            self._in_flight.set(len(self._tasks))
        # What the log never shows (control records) belongs to the last record shown.
        if not self._entries:
            self.inputs[0].next_offset = max(self.next_offset, next_offset)

    async def _call(self, entry: _Entry, event: Any) -> None:
        try:
            entry.values = await self._calls.call(event)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                self._release(entry)
                raise
            # Nobody cancelled this call; what it waited for was cancelled.  That is an answer, or the record would be in hand for ever.
            entry.failure = RuntimeError(f"what the call waited for was cancelled ({exc!r})")
        except Exception as exc:
            entry.failure = exc
        if not self._closed:
            self._finish(entry)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._in_flight.set(len(self._tasks))

    def _finish(self, entry: _Entry) -> None:
        entry.done = True
        if not self._calls.options.ordered:
            self._release(entry)
            self._emit(entry)
        self._advance()
        self._emitted()

    def _advance(self) -> None:
        """Move the marker over what is done."""
        entries, ordered = self._entries, self._calls.options.ordered
        while entries and entries[0].done:
            entry = entries.popleft()
            if ordered:
                self._release(entry)
                self._emit(entry)
            self.inputs[0].next_offset = entry.record.offset + 1
        self._room.set()

    def _emit(self, entry: _Entry) -> None:
        record = entry.record
        if entry.failure is None:
            try:
                encoded = [(record.key or b"", self._encode(value)) for value in entry.values]
            except Exception as exc:  # a value that cannot be encoded is the function's fault, as its exceptions are
                entry.failure = exc
            else:
                self.outputs.extend(encoded)
        if entry.failure is not None:
            self.refused.append((record, entry.failure))

    def _release(self, entry: _Entry) -> None:
        if entry.holds_slot:
            entry.holds_slot = False
            self._calls.slots.release()

    def _decoded(self, entry: _Entry) -> Any:
        """The record's event; ``entry.failure`` says why there is none."""
        record, source = entry.record, self.inputs[0].source
        if source.decode is None:
            return record
        try:
            event, _, timestamp = read(source, record)
        except BAD_VALUE as exc:
            entry.failure = bad_record(exc, record)
            return None
        if timestamp > self.context.processing_time_ms + self._max_drift_ms:
            entry.failure = refuse_drift(timestamp, self.context.processing_time_ms, self._max_drift_ms)
        else:
            feed = self.inputs[0]
            feed.watermark_ms = self.context.watermark_ms = max(feed.watermark_ms, timestamp - (feed.bound_ms or 0))
        return event

    # -- what becomes durable

    def freeze(self) -> list[Row]:
        """The row of what is done beyond the marker, if it changed."""
        done = self._done()
        if done == self._logged:
            return []
        self._logged = done
        return [(self._row, _encode_offsets(done) if done else None)]

    def _done(self) -> list[int]:
        if self._calls.options.ordered:
            return sorted(self._skip)
        return sorted([*(entry.record.offset for entry in self._entries if entry.done), *self._skip])

    def markers(self) -> list[Row]:
        return [marker_row(self.source.topic, Marker(self.next_offset, self.inputs[0].watermark_ms))]

    # What a snapshot asks (tables.store.LiveRows)

    def is_clean(self) -> bool:
        return self._done() == self._logged

    def live_keys(self) -> list[str]:
        return [self.source.topic] if self._logged else []

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        return [(self._row, _encode_offsets(self._logged))] if self._logged and self.source.topic in keys else []

    def trim(self, most: int) -> None:
        """There is one row."""

    def close(self) -> None:
        """Forget the calls in flight; their records will be read again."""
        self._closed = True
        self._room.set()
        for task in self._tasks:
            task.cancel()
        for entry in self._entries:
            self._release(entry)

    async def answered(self) -> None:
        """Wait until no call is in flight."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def closed(self) -> None:
        """Wait until the cancelled calls are gone."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
