"""Event time does not depend on its steps: timers over states that expire, against a plain model, whatever jumps, restarts and crashes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.operator import Context, KeyedProcessFunction
from agents.testing import Crash, OperatorHarness, Watermark
from tables import ListState, MapState, Ttl, ValueState

LIFE = 10
TTL = Ttl(timedelta(milliseconds=LIFE), time=Ttl.Time.EVENT)


class Event(msgspec.Struct, frozen=True):
    user: str
    timestamp: int
    delay: int


class Reader(KeyedProcessFunction[Event, Any]):
    value = ValueState(int, ttl=TTL)
    items = ListState(int, ttl=TTL)
    entries = MapState(int, int, ttl=TTL)

    def process_element(self, event: Event, ctx: Context) -> None:
        self._write(event.timestamp)
        ctx.timers.register_event_time(event.timestamp + event.delay)

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield ctx.key, timestamp_ms, self.value.value(), sorted(self.items.get()), sorted(self.entries.keys())
        if timestamp_ms % 2:
            self._write(timestamp_ms)

    def _write(self, number: int) -> None:
        self.value.update(number)
        self.items.add(number)
        self.entries.put(number, number)


class Model:
    """Every element written, with its stamp; nothing is ever removed, only too old."""

    def __init__(self) -> None:
        self.watermark = -1
        self.written: dict[str, list[tuple[int, int]]] = {}
        self.timers: set[tuple[int, str]] = set()
        self.fired: list[Any] = []

    def process(self, event: Event) -> None:
        self.write(event.user, event.timestamp, max(event.timestamp, self.watermark))
        self.timers.add((event.timestamp + event.delay, event.user))
        self.advance(self.watermark)

    def write(self, user: str, number: int, stamp: int) -> None:
        self.written.setdefault(user, []).append((number, stamp))

    def advance(self, watermark: int) -> None:
        while self.timers and min(self.timers)[0] <= watermark:
            time, user = min(self.timers)
            self.timers.discard((time, user))
            self.watermark = max(self.watermark, time)
            written = self.written.get(user, [])
            living = sorted(number for number, stamp in written if self.watermark < stamp + LIFE)
            last = written[-1] if written and self.watermark < written[-1][1] + LIFE else None
            # An entry's stamp is that of its last writing.
            entries = dict(written)
            there = sorted(number for number, stamp in entries.items() if self.watermark < stamp + LIFE)
            self.fired.append((user, time, None if last is None else last[0], living, there))
            if time % 2:
                self.write(user, time, max(time, self.watermark))
        self.watermark = max(self.watermark, watermark)


steps = st.lists(
    st.one_of(
        st.builds(Event, st.sampled_from("ab"), st.integers(0, 60), st.integers(-5, 40)),
        st.builds(Watermark, st.integers(0, 90)),
        st.just(Crash()),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(1, 6))
def test_what_a_timer_finds_does_not_depend_on_how_far_time_jumps_nor_on_crashes(
    script: list[Any], commit_every: int
) -> None:
    model = Model()
    small: list[Any] = []
    for step in script:
        if isinstance(step, Watermark):
            small += [Watermark(at) for at in range(max(model.watermark, 0), step.timestamp_ms + 1)]
            model.advance(step.timestamp_ms)
        elif isinstance(step, Event):
            small.append(step)
            model.process(step)
    for way in (script, small):
        h = OperatorHarness(Reader(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
        h.run(way, commit_every=commit_every)
        assert sorted(h.outputs, key=repr) == sorted(model.fired, key=repr)
