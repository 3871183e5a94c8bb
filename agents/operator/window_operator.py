"""The keyed process function behind windows.

State: ``panes`` holds per key and window what the window is (its value or number of records, and its trigger's memory); ``elements``,
for window functions that want all records, one row per record.  A key's timers are shared by its windows: a pane knows which times
its trigger asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import msgspec

from agents.operator.process import Context, KeyedProcessFunction
from agents.operator.timers import FAR, TimeDomain
from agents.operator.triggers import OnTime, Trigger, TriggerResult
from models.errors import BadRecord, StateError
from models.time import NO_TIME, Millis, millis
from tables.map import MapState

if TYPE_CHECKING:
    from agents.operator.windows import WindowAssigner


class Window(NamedTuple):
    """The interval [start_ms, end_ms)."""

    start_ms: Millis
    end_ms: Millis

    @property
    def start(self) -> Millis:
        """``start_ms``, by Flink's name."""
        return self.start_ms

    @property
    def end(self) -> Millis:
        """``end_ms``, by Flink's name."""
        return self.end_ms


#: The window of all time; it never closes.
ALL_TIME = Window(NO_TIME, FAR)

#: (key, window, value or events, ctx) -> what is emitted
Emit = Callable[[str, Window, Any, Context], list[Any]]

_CONTINUE = TriggerResult.CONTINUE
_time_of = itemgetter(0)


class Pane(msgspec.Struct, array_like=True):
    """What is known of one window of one key."""

    count: int = 0
    state: dict[str, int] = {}
    event_timers: list[Millis] = []
    processing_timers: list[Millis] = []
    #: the window as it was when its first record came: its records' rows keep that name when it grows
    origin: tuple[Millis, Millis] = (0, 0)
    value: Any = None


class PaneView:
    """The window in hand, for its trigger (see :class:`agents.operator.triggers.OpenWindow`)."""

    __slots__ = (
        "_operator",
        "_pane",
        "count",
        "end_ms",
        "merged_timers",
        "processing_time_ms",
        "start_ms",
        "state",
        "timestamp_ms",
        "watermark_ms",
    )

    def __init__(self, operator: WindowOperator) -> None:
        self._operator = operator
        self.merged_timers: Mapping[TimeDomain, Sequence[Millis]] = {}

    def of(self, window: Window, pane: Any, ctx: Context) -> PaneView:
        self.start_ms, self.end_ms = window
        self._pane = pane
        self.count = pane.count
        self.state: dict[str, int] = pane.state
        self.timestamp_ms = ctx.timestamp_ms
        self.watermark_ms = ctx.watermark_ms
        self.processing_time_ms = ctx.processing_time_ms
        return self

    def register_timer(self, timestamp_ms: Millis, domain: TimeDomain = TimeDomain.EVENT) -> None:
        times = self._pane.event_timers if domain is TimeDomain.EVENT else self._pane.processing_timers
        if timestamp_ms not in times and timestamp_ms < FAR:
            times.append(timestamp_ms)
            self._operator._register(timestamp_ms, domain)

    def delete_timer(self, timestamp_ms: Millis, domain: TimeDomain = TimeDomain.EVENT) -> None:
        times = self._pane.event_timers if domain is TimeDomain.EVENT else self._pane.processing_timers
        if timestamp_ms in times:
            times.remove(timestamp_ms)
            self._operator._release(timestamp_ms, domain)


class WindowOperator(KeyedProcessFunction[Any, Any]):
    """One operator of windows: made by the methods of a :class:`agents.operator.windows.WindowAssigner`."""

    panes: MapState[Window, Any]

    @staticmethod
    def made(
        base: type[WindowOperator], states: dict[str, Any], assigner: WindowAssigner, emit: Emit, **options: Any
    ) -> WindowOperator:
        """An operator with states of its own types."""
        made: type[WindowOperator] = type(base.__name__, (base,), states)
        return made(assigner, emit, **options)

    def __init__(self, assigner: WindowAssigner, emit: Emit, event_type: Any = None) -> None:
        self.assigner = assigner
        self._emit = emit
        self._type = event_type
        self._trigger: Trigger = assigner.trigger
        self._lateness_ms = millis(assigner.allowed_lateness)
        self._view = PaneView(self)
        #: windows that fire once, when they close: no trigger needs to be asked, which halves the cost of a record
        self._fires_at_end = type(self._trigger) is OnTime and not self._lateness_ms and not assigner.merging

    def open(self, ctx: Context) -> None:
        self._ctx = ctx
        if self._type is None:
            self._type = ctx.event_type

    # -- records and timers

    def process_element(self, event: Any, ctx: Context) -> Iterable[Any] | None:
        panes, merging, lateness = self.panes, self.assigner.merging, self._lateness_ms
        out: list[Any] | None = None
        taken = closed = False
        if self._type is None:
            self._type = type(event)
        windows = self.assigner.assign(event, ctx.timestamp_ms)
        if windows is None:
            raise BadRecord(
                f"{type(self.assigner).__name__}.assign returns None: return a list of windows, [] for none"
            )
        for window in windows:
            if type(window) is not Window:  # a plain pair says as much
                window = _window(self.assigner, window)
            if merging:
                window = self._merged(window, ctx)
            if window[1] + lateness <= ctx.watermark_ms:
                closed = True
                continue
            taken = True
            pane = panes.get(window)
            if pane is None:
                pane = self._new(window)
            self._add(pane, event, ctx)
            pane.count += 1
            panes.put(window, pane)
            if self._fires_at_end:
                continue
            result = self._trigger.on_element(self._view.of(window, pane, ctx))
            if result is not _CONTINUE:
                fired = self._act(result, window, pane, ctx)
                out = fired if out is None else out + fired
        if closed and not taken:
            ctx.late(event)
        return out

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> Iterable[Any] | None:
        out: list[Any] = []
        failure: Exception | None = None
        event_time = ctx.time_domain is TimeDomain.EVENT
        at_end, lateness = self._fires_at_end, self._lateness_ms
        for window, pane in list(self.panes.entries()):
            over = event_time and window[1] + lateness <= timestamp_ms
            if at_end and not over:
                continue
            try:
                out += self._contents(window, pane, ctx) if at_end else self._asked(timestamp_ms, window, pane, ctx)
            except StateError:
                raise
            except Exception as exc:  # of the user's function: other windows of the key are not affected
                failure = failure or exc
            if over:
                self._purge(pane)
                self.panes.remove(window)
                if not at_end:
                    self._forget(pane)
        return out if failure is None else _and_raise(out, failure)

    def _asked(self, timestamp_ms: Millis, window: Window, pane: Any, ctx: Context) -> list[Any]:
        """What the trigger wants of a window at a timer, if that is one of the window's."""
        domain = ctx.time_domain
        times = pane.event_timers if domain is TimeDomain.EVENT else pane.processing_timers
        if timestamp_ms not in times:
            return []
        times.remove(timestamp_ms)
        self.panes.put(window, pane)
        if window[1] <= timestamp_ms and domain is TimeDomain.EVENT:
            # It was set with the window, but by a version with another lateness perhaps.
            self._register(window[1] + self._lateness_ms, domain)
        result = self._trigger.on_timer(timestamp_ms, domain, self._view.of(window, pane, ctx))
        return [] if result is _CONTINUE else self._act(result, window, pane, ctx)

    # -- panes

    def _new(self, window: Window) -> Any:
        if window[1] <= window[0]:
            raise BadRecord(f"{type(self.assigner).__name__} gives the window {window}: it has to end after its start")
        pane = self._pane()
        pane.origin = window[0], window[1]
        if self._fires_at_end:
            pane.event_timers = [window[1]]  # as the trigger would have it, for a later version with another trigger
        self._register(window[1] + self._lateness_ms, TimeDomain.EVENT)
        return pane

    def _act(self, result: TriggerResult, window: Window, pane: Any, ctx: Context) -> list[Any]:
        if not isinstance(result, TriggerResult):
            raise StateError(
                f"{type(self._trigger).__name__} answers {result!r}: return a TriggerResult, CONTINUE where nothing is to happen"
            )
        out = self._contents(window, pane, ctx) if result.fires and pane.count else []
        if result.purges:
            self._purge(pane)
            # A session goes on where it was emptied: its window is known until it ends.
            if self.assigner.merging or pane.state or pane.event_timers or pane.processing_timers:
                self.panes.put(window, pane)
            else:
                self.panes.remove(window)
        return out

    def _forget(self, pane: Any) -> None:
        """The timers of a window that is gone, unless others of the key have set them, too."""
        for timestamp in pane.event_timers:
            self._release(timestamp, TimeDomain.EVENT)
        for timestamp in pane.processing_timers:
            self._release(timestamp, TimeDomain.PROCESSING)

    def _merged(self, window: Window, ctx: Context) -> Window:
        """The window that a record's own becomes together with those that it overlaps."""
        start, end = window
        overlapping = [known for known in self.panes if known[0] < end and start < known[1]]
        if not overlapping:
            return window
        if type(start) is not int or type(end) is not int:  # refused before anything is changed
            raise BadRecord(
                f"{type(self.assigner).__name__} gives the window {window}: its times are whole milliseconds"
            )
        whole = Window(min(start, *(known[0] for known in overlapping)), max(end, *(known[1] for known in overlapping)))
        if len(overlapping) == 1 and overlapping[0] == whole:
            return whole
        parts = sorted(
            ((known, self.panes[known]) for known in overlapping), key=lambda part: part[1].count, reverse=True
        )
        for known, _ in parts:
            self.panes.remove(known)
        merged = parts[0][1]
        self._view.merged_timers = {
            TimeDomain.EVENT: [at for known, pane in parts for at in pane.event_timers if at != known[1]],
            TimeDomain.PROCESSING: [at for _, pane in parts for at in pane.processing_timers],
        }
        for known, pane in parts:
            self._forget_timers(known, pane)
        for _, pane in parts[1:]:
            self._combine(merged, pane)
            merged.count += pane.count
            for name, number in pane.state.items():
                merged.state[name] = merged.state.get(name, 0) + number
        self.panes.put(whole, merged)
        self._register(whole[1] + self._lateness_ms, TimeDomain.EVENT)
        self._trigger.on_merge(self._view.of(whole, merged, ctx))
        return whole

    def _forget_timers(self, window: Window, pane: Any) -> None:
        event, pane.event_timers = pane.event_timers, []
        processing, pane.processing_timers = pane.processing_timers, []
        for timestamp in {*event, window[1] + self._lateness_ms}:
            self._release(timestamp, TimeDomain.EVENT)
        for timestamp in processing:
            self._release(timestamp, TimeDomain.PROCESSING)

    # -- timers of the current key, which its windows share

    def _register(self, timestamp_ms: Millis, domain: TimeDomain) -> None:
        if timestamp_ms >= FAR:
            return
        if domain is TimeDomain.EVENT:
            self._ctx.timers.register_event_time(timestamp_ms)
        else:
            self._ctx.timers.register_processing_time(timestamp_ms)

    def _release(self, timestamp_ms: Millis, domain: TimeDomain) -> None:
        for window, pane in self.panes.entries():
            if domain is TimeDomain.PROCESSING:
                if timestamp_ms in pane.processing_timers:
                    return
            elif timestamp_ms in pane.event_timers or window[1] + self._lateness_ms == timestamp_ms:
                return
        if domain is TimeDomain.EVENT:
            self._ctx.timers.delete_event_time(timestamp_ms)
        else:
            self._ctx.timers.delete_processing_time(timestamp_ms)

    def _typed(self, value: Any) -> Any:
        """A value that was read back before its type was known."""
        if self._type is None or type(value) is self._type or not isinstance(value, (dict, list)):
            return value
        return msgspec.convert(value, self._type)

    # -- what a kind of contents defines

    def _pane(self) -> Any:
        raise NotImplementedError

    def _add(self, pane: Any, event: Any, ctx: Context) -> None:
        raise NotImplementedError

    def _contents(self, window: Window, pane: Any, ctx: Context) -> list[Any]:
        raise NotImplementedError

    def _combine(self, pane: Any, other: Any) -> None:
        raise NotImplementedError

    def _purge(self, pane: Any) -> None:
        raise NotImplementedError


class FoldingWindows(WindowOperator):
    """A window is one value, folded record by record."""

    _pane_type: type[Any]

    def __init__(
        self,
        assigner: WindowAssigner,
        emit: Emit,
        *,
        event_type: Any,
        first: Callable[[Any], Any],
        fold: Callable[[Any, Any], Any],
        combine: Callable[[Any, Any], Any],
    ) -> None:
        super().__init__(assigner, emit, event_type)
        self._first = first
        self._fold = fold
        self._merge = combine
        self._dynamic = event_type is None

    def _pane(self) -> Any:
        return self._pane_type()

    def _value(self, pane: Any) -> Any:
        return self._typed(pane.value) if self._dynamic else pane.value

    def _add(self, pane: Any, event: Any, ctx: Context) -> None:
        pane.value = self._fold(self._value(pane), event) if pane.count else self._first(event)

    def _contents(self, window: Window, pane: Any, ctx: Context) -> list[Any]:
        return self._emit(ctx.key, window, self._value(pane), ctx)

    def _combine(self, pane: Any, other: Any) -> None:
        if other.count:
            pane.value = self._merge(self._value(pane), self._value(other)) if pane.count else other.value

    def _purge(self, pane: Any) -> None:
        pane.value = None
        pane.count = 0


class BufferingWindows(WindowOperator):
    """A window is all its records."""

    elements: MapState[tuple[Millis, Millis, int], tuple[Millis, Any]]

    def _pane(self) -> Any:
        return Pane()

    def _add(self, pane: Any, event: Any, ctx: Context) -> None:
        self.elements.put((*pane.origin, pane.count), (ctx.timestamp_ms, event))

    def _contents(self, window: Window, pane: Any, ctx: Context) -> list[Any]:
        try:
            found = [self.elements[(*pane.origin, number)] for number in range(pane.count)]
        except KeyError:
            raise StateError(
                f"{window} of key {ctx.key!r} has no records: an aggregate or a reduce made it; an operator that begins to keep "
                "records needs a uid of its own"
            ) from None
        found.sort(key=_time_of)
        return self._emit(ctx.key, window, [self._typed(event) for _, event in found], ctx)

    def _combine(self, pane: Any, other: Any) -> None:
        for number in range(other.count):
            element = self.elements[(*other.origin, number)]
            self.elements.remove((*other.origin, number))
            self.elements.put((*pane.origin, pane.count + number), element)

    def _purge(self, pane: Any) -> None:
        for number in range(pane.count):
            self.elements.remove((*pane.origin, number))
        pane.count = 0


def _window(assigner: WindowAssigner, given: Any) -> Window:
    """A window that was given as a plain pair."""
    try:
        start_ms, end_ms = given
    except (TypeError, ValueError):
        raise StateError(
            f"{type(assigner).__name__}.assign gives {given!r} among its windows: return a list of Window(start_ms, end_ms)"
        ) from None
    return Window(start_ms, end_ms)


def _and_raise(values: list[Any], failure: Exception) -> Iterable[Any]:
    """Emit what there is, then fail."""
    yield from values
    raise failure


def folding_states(of: Any) -> dict[str, Any]:
    """The states of :class:`FoldingWindows` for a type of value, ``None`` if it is not known yet."""
    pane: Any = Pane
    if of is not None:
        pane = msgspec.defstruct("Pane", [("value", Optional[of], None)], bases=(Pane,), array_like=True)  # noqa: UP045  (of need not be a class)
    return {"_pane_type": pane, "panes": MapState(Window, pane)}


def buffering_states(of: Any) -> dict[str, Any]:
    """The states of :class:`BufferingWindows` for a type of record, ``None`` if it is not known yet."""
    event: Any = Any if of is None else of
    element: Any = tuple[int, event]
    return {"panes": MapState(Window, Pane), "elements": MapState(tuple[int, int, int], element)}
