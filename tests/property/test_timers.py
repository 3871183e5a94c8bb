"""Timers against a plain model: a set of (key, domain, time), whatever is done in whatever order, with restarts in between."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.operator import Context, KeyedProcessFunction
from agents.testing import OperatorHarness

START = 1_700_000_000_000


class Event(msgspec.Struct):
    key: str
    action: str
    at: int
    timestamp: int = 1


class Alarm(KeyedProcessFunction[Event, Any]):
    def process_element(self, event: Event, ctx: Context) -> None:
        {
            ("register", "event"): ctx.timers.register_event_time,
            ("delete", "event"): ctx.timers.delete_event_time,
            ("register", "processing"): ctx.timers.register_processing_time,
            ("delete", "processing"): ctx.timers.delete_processing_time,
        }[tuple(event.action.split())](event.at)  # type: ignore[index]

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield ctx.key, str(ctx.time_domain), timestamp_ms


keys = st.sampled_from("abc")
offsets = st.integers(0, 12)
steps = st.one_of(
    st.tuples(
        st.sampled_from(["register event", "delete event", "register processing", "delete processing"]), keys, offsets
    ),
    st.tuples(st.just("watermark"), keys, offsets),
    st.tuples(st.just("clock"), keys, st.integers(0, 3)),
    st.tuples(st.just("restart"), keys, offsets),
    st.tuples(st.just("freeze"), keys, offsets),
)


def harness(**options: Any) -> OperatorHarness:
    return OperatorHarness(Alarm(), key=lambda e: e.key, timestamp=lambda e: e.timestamp, **options)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=40))
def test_what_fires_and_what_is_pending_is_what_a_set_says(script: list[tuple[str, str, int]]) -> None:
    h = harness()
    pending: set[tuple[str, str, int]] = set()
    watermark, clock = -1, START
    for action, key, at in script:
        before = len(h.outputs)
        due: set[tuple[str, str, int]] = set()
        if action == "watermark":
            watermark = max(watermark, at)
            h.watermark(at)
        elif action == "clock":
            clock += at
            h.advance_processing_time(timedelta(milliseconds=at))
        elif action == "freeze":
            h.snapshot()
        elif action == "restart":
            kept = h.outputs
            h = OperatorHarness.restore(Alarm(), h.snapshot(), key=lambda e: e.key, timestamp=lambda e: e.timestamp)
            h.outputs = kept
        else:
            verb, domain = action.split()
            time = at if domain == "event" else START + at
            h.process(Event(key, action, time))
            if verb == "register":
                pending.add((key, domain, time))
            else:
                pending.discard((key, domain, time))
            if domain == "processing":
                h.advance_processing_time(timedelta(0))
        due = {timer for timer in pending if timer[2] <= (watermark if timer[1] == "event" else clock)}
        pending -= due
        fired = h.outputs[before:]
        assert sorted(fired) == sorted(due)
        assert [time for _, domain, time in fired if domain == "event"] == sorted(t for _, d, t in due if d == "event")
        for each in "abc":
            assert h.timers(each) == sorted(((d, t) for k, d, t in pending if k == each), key=lambda x: (x[1], x[0]))
