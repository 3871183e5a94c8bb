"""The loop: one function on one partition, a batch of records at a time, synchronously.

There are two loops, and an operator gets the cheapest that does what it needs.  Both are plain and long on purpose: what can be done once
per batch (clock, limits) or once per change (state handles, decoders) is done there.

``_run_plain`` is for functions without timers: read (see agents.operator.reading), move time, call.

``_run_timed`` adds timers, lateness and a second input.  It is a generator: when timers have taken longer than a slice, it yields between
two of them, the lane writes what there is as an atomic part with its own marker, gives way to the event loop, and resumes.  The record
that made the timers due is held meanwhile; the marker stands before it.

However far the watermark jumps, event time passes through each timer on its way: while one fires, the watermark that function and states
see stands at its time.  So what a timer finds does not depend on how large the steps of time are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from agents.operator.checks import ONE_VALUE, check_function, check_unused, refuse_one_value
from agents.operator.inputs import Input, lift
from agents.operator.process import (
    BroadcastContext,
    Context,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    KeyedProcessFunction,
    encode_json,
)
from agents.operator.reading import BAD_VALUE, reader, reason
from agents.operator.spec import Decode, Source, bad_record, refuse_drift
from agents.operator.timers import FAR, TimeDomain, TimerQueue, Timers
from models.errors import BadRecord, StateError
from models.time import NO_TIME, Millis
from tables.broadcast import BroadcastState, declared_broadcasts
from tables.changelog import Marker, Row, marker_row
from tables.log import Record
from tables.state import KeyedState, KeylessState, NoKey, declared_states
from tables.store import StateStore
from tables.ttl import Ttl

#: key, value
Emitted = tuple[bytes, bytes]

#: Timers between two looks at the slice's time.
_STRIDE = 512
#: Keys that a state with a time to live may look at between two batches, about 1 us each.
_SWEEP_KEYS = 2000


class TimerError(NamedTuple):
    """A timer whose function raised; the timer is spent."""

    key: str
    domain: TimeDomain
    timestamp_ms: Millis
    error: Exception


class Broadcasts:
    """The broadcast side of an operator: one function instance per worker, whose broadcast states all partitions read.

    ``decode`` turns a record's value into an element; without it elements are the bytes themselves.
    """

    def __init__(self, function: KeyedProcessFunction[Any, Any], decode: Decode | None = None) -> None:
        check_function(function)
        self._context = BroadcastContext(type(function).__name__)
        self.metrics = self._context.metrics
        self._decode = decode
        self._refused = self.metrics.counter("broadcast_refused")
        self._function = function
        self.states: dict[str, BroadcastState[Any, Any]] = {}
        for name, (attribute, declared) in declared_broadcasts(function).items():
            handle = declared.share()
            setattr(function, attribute, handle)
            self.states[name] = handle
        for name, (attribute, _) in declared_states(function).items():
            setattr(function, attribute, KeylessState(name))
        function.open(self._context)

    @property
    def function(self) -> KeyedProcessFunction[Any, Any]:
        return self._function

    def take(self, record: Record, topic: str) -> Exception | None:
        """Give a record of the broadcast topic to the function.  The reason if that failed: every worker sees the same, and goes on."""
        value = record.value
        try:
            key = (record.key or b"").decode()
        except UnicodeDecodeError:
            return self._refuse(BadRecord("the record's key is not UTF-8"))
        try:
            element = value if self._decode is None or value is None else self._decode(value)
        except BAD_VALUE as exc:
            return self._refuse(bad_record(exc, record))
        try:
            self.process(key, element, record, topic)
        except Exception as exc:
            return self._refuse(exc)
        return None

    def _refuse(self, reason: Exception) -> Exception:
        self._refused.inc()
        return reason

    def process(self, key: str, element: Any, record: Record | None = None, topic: str = "") -> None:
        """Give one broadcast element to the function."""
        function = self._function
        if not isinstance(function, KeyedBroadcastProcessFunction):
            raise StateError(
                f"{type(function).__name__} has no broadcast input: derive it from KeyedBroadcastProcessFunction"
            )
        context = self._context
        context.key = key
        context._record = record
        context._topic = topic
        context.timestamp_ms = -1 if record is None else record.timestamp
        given: Any = function.process_broadcast_element(element, context)  # type: ignore[func-returns-value]  # if it is as declared
        if given is not None:
            raise StateError(
                f"{type(function).__name__}.process_broadcast_element returns {type(given).__name__}: nothing is emitted there, "
                "because every worker would emit it"
            )


class OperatorTask:
    """One function instance with its state, for one partition number of its one or two sources.

    ``run``, ``resume``, ``tick`` and ``advance_watermark`` return whether a slice ended before the work did: then freeze, write, and
    ``resume``.  After each of them ``outputs`` and ``sides`` hold what was emitted, ``refused`` the records that could not be taken,
    ``timer_errors`` the timers that failed; the caller empties them.  ``freeze`` gives the changelog rows of all that changed since it was
    last called.

    ``stopwatch`` (seconds) and ``slice_seconds`` bound how long timers may fire in one go; without a stopwatch nothing is sliced.
    """

    def __init__(
        self,
        function: KeyedProcessFunction[Any, Any],
        source: Source,
        store: StateStore,
        *,
        source2: Source | None = None,
        partition: int = 0,
        uid: str = "",
        broadcasts: Broadcasts | None = None,
        max_drift_ms: Millis = 1 << 62,
        encode: Callable[[Any], bytes] = encode_json,
        stopwatch: Callable[[], float] | None = None,
        slice_seconds: float = 0.02,
    ) -> None:
        check_function(function)
        self.function = function
        self.source = source
        self.store = store
        self.context = context = Context(source.topic, partition, uid or type(function).__name__, encode)
        context.event_type = getattr(getattr(source.decode, "__self__", None), "type", None)
        self.metrics = context.metrics
        self.outputs: list[Emitted] = []
        self.refused: list[tuple[Record, BaseException]] = []
        self.timer_errors: list[TimerError] = []
        self.states: dict[str, KeyedState] = {}
        self._encode = encode
        self._max_drift_ms = max_drift_ms
        self._stopwatch = stopwatch
        self._slice_seconds = slice_seconds
        self._stop = 0.0
        self._work: Iterator[None] | None = None
        self.inputs = self._inputs(function, source, source2)
        context.watermark_ms = min(feed.watermark_ms for feed in self.inputs)
        self._bind(function, broadcasts)
        #: whether the passing of time alone can make the function do something
        self.timed = type(function).on_timer is not KeyedProcessFunction.on_timer
        self.timers: Timers | None = None
        if self.timed:
            self.timers = context.timers = Timers(
                TimerQueue(TimeDomain.EVENT, context, store.rows("timers/event")),
                TimerQueue(TimeDomain.PROCESSING, context, store.rows("timers/processing")),
            )
            # A crash between two slices left timers that the watermark has passed: time has not passed them yet.
            context.watermark_ms = min(context.watermark_ms, self.timers.event.due)
        ahead = [state.ahead for state in self.states.values() if state.ahead is not None]
        for feed in self.inputs:
            feed.read = reader(feed.source, context, self._refuse, ahead)
        #: states with a time to live, which want to know what time it is and to clean up
        self.expiring = [state for state in self.states.values() if state.ttl is not None]
        self._forgets_in_event_time = any(
            state.ttl is not None and state.ttl.time is Ttl.Time.EVENT for state in self.expiring
        )
        #: timers fired so far
        self.fired = 0
        self._plain = (
            not self.timed and source2 is None and source.allowed_lateness is None and source.decode is not None
        )
        context.key = NoKey(type(function).__name__)
        function.open(context)
        context.key = ""

    def _inputs(
        self, function: KeyedProcessFunction[Any, Any], source: Source, source2: Source | None
    ) -> tuple[Input, ...]:
        markers = self.store.markers
        first = Input(source.checked(), markers.get(source.topic, Marker()), function.process_element)
        if not isinstance(function, KeyedCoProcessFunction):
            if source2 is not None:
                raise StateError(
                    f"{type(function).__name__} has one input, its operator two: derive it from KeyedCoProcessFunction"
                )
            return (first,)
        if source2 is None:
            raise StateError(f"{type(function).__name__} has two inputs: give its operator a source2=")
        first.process = function.process_element1
        return first, Input(source2.checked(), markers.get(source2.topic, Marker()), function.process_element2)

    def _bind(self, function: KeyedProcessFunction[Any, Any], broadcasts: Broadcasts | None) -> None:
        for name, (attribute, declared) in declared_states(function).items():
            check_unused(function, attribute)
            handle = declared.bind(self.context, self.store)
            setattr(function, attribute, handle)
            self.states[name] = handle
        for name, (attribute, _) in declared_broadcasts(function).items():
            if broadcasts is None:
                raise StateError(f"{type(function).__name__}.{attribute}: a broadcast state needs a broadcast input")
            check_unused(function, attribute)
            setattr(function, attribute, broadcasts.states[name].reader())

    @property
    def next_offset(self) -> int:
        """Offset of the first record of the first source that is not in the state."""
        return self.inputs[0].next_offset

    @property
    def sides(self) -> list[tuple[str, str, Any]]:
        """Side outputs emitted and not yet collected: (tag, key, encoded value)."""
        return self.context._sides

    # -- work

    def run(self, records: Sequence[Record], now_ms: Millis, number: int = 0) -> bool:
        """Process records of an input in order; ``now_ms`` is the processing time of all of them."""
        feed = self.inputs[number]
        self._now(now_ms)
        if self._plain:
            self._run_plain(feed, records)
            return False
        return self._begin(self._run_timed(feed, records))

    def _now(self, now_ms: Millis) -> None:
        self.context.processing_time_ms = now_ms
        for state in self.expiring:
            state.begin(now_ms, self.context.watermark_ms)
            state.sweep(now_ms, _SWEEP_KEYS)

    def tick(self, now_ms: Millis, quiet_ms: Sequence[Millis] = (), others_ms: Millis = -1) -> bool:
        """Let time pass without records: fire processing-time timers, lift the watermarks of idle inputs.

        ``quiet_ms``: for how long nothing has been waiting in each input's partition.  ``others_ms``: the watermark of the furthest other
        partition.
        """
        self._now(now_ms)
        if not self.timed and not self._forgets_in_event_time:
            return False
        if quiet_ms:
            lift(self.inputs, quiet_ms, others_ms)
        return self._begin(self._catch_up())

    def advance_watermark(self, timestamp_ms: Millis) -> bool:
        """Say that no record before ``timestamp_ms`` is expected any more, in any input."""
        for feed in self.inputs:
            feed.watermark_ms = max(feed.watermark_ms, timestamp_ms)
        return self._begin(self._catch_up())

    def _begin(self, work: Iterator[None]) -> bool:
        self._work = work
        return self.resume()

    def resume(self) -> bool:
        """Go on with what the last slice left."""
        if self._work is None:
            return False
        if self._stopwatch is not None:
            self._stop = self._stopwatch() + self._slice_seconds
        for _ in self._work:
            return True
        self._work = None
        return False

    def _run_plain(self, feed: Input, records: Sequence[Record]) -> None:
        context = self.context
        process = feed.process
        encode = self._encode
        emit = self.outputs.append
        bound = 0 if feed.bound_ms is None else feed.bound_ms
        limit = context.processing_time_ms + self._max_drift_ms
        high = limit if feed.bound_ms is None else context.watermark_ms + bound
        timestamp = NO_TIME
        for event in feed.read(records):
            timestamp = context.timestamp_ms
            if timestamp > high:
                if timestamp > limit:
                    drift = refuse_drift(timestamp, context.processing_time_ms, self._max_drift_ms)
                    self._refuse_current(drift)
                    continue
                high = timestamp
                context.watermark_ms = timestamp - bound
            try:
                out = process(event, context)
                if out is not None:
                    if isinstance(out, ONE_VALUE):
                        refuse_one_value(self.function, out)
                    raw = context.key.encode()
                    for value in out:
                        emit((raw, encode(value)))
            except StateError:
                raise
            except Exception as exc:
                self._refuse_current(exc)
        if context.watermark_ms > feed.watermark_ms:
            feed.watermark_ms = context.watermark_ms
            feed.seen_ms = feed.watermark_ms + bound
        feed.settle(min(timestamp, high))  # the last one may have been refused for its time
        context._record = None  # it may hold all that was fetched with it
        if records:
            feed.next_offset = records[-1].offset + 1

    def _refuse(self, record: Record, exc: Exception) -> None:
        self.refused.append((record, reason(exc, record)))

    def _refuse_current(self, exc: Exception) -> None:
        self.refused.append((self.context.record, exc))

    def _run_timed(self, feed: Input, records: Sequence[Record]) -> Iterator[None]:
        yield from self._catch_up()
        context = self.context
        source = feed.source
        process = feed.process
        encode = self._encode
        emit = self.outputs.append
        bound = 0 if feed.bound_ms is None else feed.bound_ms
        lateness = feed.lateness_ms
        # The time of a record without ``decode`` is its producer's clock, which is no reason to refuse it.
        limit = FAR if source.decode is None else context.processing_time_ms + self._max_drift_ms
        high = limit if feed.bound_ms is None else feed.watermark_ms + bound
        timestamp = NO_TIME
        others = [other for other in self.inputs if other is not feed]
        timers = self.timers.event if self.timers is not None else None
        fire = self._fire
        context._topic = source.topic
        for event in feed.read(records):
            timestamp = context.timestamp_ms
            if timestamp > high:
                if timestamp > limit:
                    drift = refuse_drift(timestamp, context.processing_time_ms, self._max_drift_ms)
                    self._refuse_current(drift)
                    continue
                high = feed.seen_ms = timestamp
                watermark = feed.watermark_ms = timestamp - bound
                for other in others:
                    if other.watermark_ms < watermark:
                        watermark = other.watermark_ms
                if watermark > context.watermark_ms:
                    if timers is not None and timers.due <= watermark:
                        key, record = context.key, context.record
                        feed.next_offset = record.offset
                        while fire(timers, watermark):
                            yield
                        context.key, context.timestamp_ms, context._record = key, timestamp, record
                    context.watermark_ms = watermark
            if timestamp < context.watermark_ms - lateness:
                context.late(event)
                continue
            try:
                out = process(event, context)
                if out is not None:
                    if isinstance(out, ONE_VALUE):
                        refuse_one_value(self.function, out)
                    raw = context.key.encode()
                    for value in out:
                        emit((raw, encode(value)))
            except StateError:
                raise
            except Exception as exc:
                self._refuse_current(exc)
            if timers is not None and timers.due <= context.watermark_ms:  # set for a time that has passed
                feed.next_offset = context.record.offset + 1
                while fire(timers, context.watermark_ms):
                    yield
        feed.settle(min(timestamp, high))  # the last one may have been refused for its time
        context._record = None  # it may hold all that was fetched with it
        if records:
            feed.next_offset = records[-1].offset + 1
        if self.timers is not None and self.timers.processing.due <= context.processing_time_ms:
            yield from self._catch_up()  # set for a time of the clock that has passed

    def _catch_up(self) -> Iterator[None]:
        """Everything that is due by the clocks as they are."""
        context = self.context
        watermark = max(context.watermark_ms, min(feed.watermark_ms for feed in self.inputs))
        if self.timers is not None:
            event, processing, now = self.timers.event, self.timers.processing, context.processing_time_ms
            while event.due <= watermark or processing.due <= now:  # those of one kind may set some of the other
                while self._fire(event, watermark):
                    yield
                context.watermark_ms = watermark
                while self._fire(processing, now):
                    yield
        context.watermark_ms = watermark

    def _fire(self, timers: TimerQueue, upto_ms: Millis) -> bool:
        """Fire what is due.  ``True``: the slice is over and there is more; what is left is registered and can be deleted.

        In event time the context's watermark goes from timer to timer; the caller sets it to its end.
        """
        if timers.due > upto_ms:
            return False
        context = self.context
        on_timer = self.function.on_timer
        encode = self._encode
        emit = self.outputs.append
        context._record = None
        domain = context.time_domain = timers.domain
        fired = 0
        while timers.due <= upto_ms:
            timestamp, keys = timers.take(_STRIDE)
            context.timestamp_ms = timestamp
            if domain is TimeDomain.EVENT and timestamp > context.watermark_ms:
                context.watermark_ms = timestamp
            for key in keys:
                context.key = key
                try:
                    out = on_timer(timestamp, context)
                    if out is not None:
                        if isinstance(out, ONE_VALUE):
                            refuse_one_value(self.function, out)
                        raw = key.encode()
                        for value in out:
                            emit((raw, encode(value)))
                except StateError:
                    raise
                except Exception as exc:
                    self.metrics.counter("timer_errors").inc()
                    self.timer_errors.append(TimerError(key, domain, timestamp, exc))
            fired += len(keys)
            self.fired += len(keys)
            if fired >= _STRIDE:
                fired = 0
                if self._stopwatch is not None and self._stopwatch() > self._stop and timers.due <= upto_ms:
                    return True
        return False

    # -- what becomes durable

    def freeze(self) -> list[Row]:
        """Rows of everything that changed since the last call; the values are bytes from now on."""
        rows: list[Row] = []
        for state in self.states.values():
            state.freeze(rows)
        if self.timers is not None:
            self.timers.event.freeze(rows)
            self.timers.processing.freeze(rows)
        return rows

    def markers(self) -> list[Row]:
        """The rows that say, per source: all records below this offset are in the state, and time is so far."""
        return [marker_row(feed.source.topic, Marker(feed.next_offset, feed.watermark_ms)) for feed in self.inputs]

    def close(self) -> None:
        self.function.close()
