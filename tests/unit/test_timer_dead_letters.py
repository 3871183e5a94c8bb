"""A timer whose function raises becomes a dead letter, once, and nothing around it is affected."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import Context, KeyedCoProcessFunction, KeyedProcessFunction, OperatorSpec, keyed_source
from agents.testing import JobHarness, OperatorHarness
from app.deadletters import Reason
from tables import ValueState


class Event(msgspec.Struct):
    user_id: str
    timestamp: int


class Breaking(KeyedProcessFunction[Event, Any]):
    """Its timers raise for users whose name begins with "b", after they have counted."""

    fired = ValueState(int)

    def process_element(self, event: Event, ctx: Context) -> None:
        ctx.timers.register_event_time(event.timestamp + 10)
        ctx.timers.register_processing_time(ctx.processing_time_ms + 1_000)

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[str]:
        self.fired.update((self.fired.value() or 0) + 1)
        if ctx.key.startswith("b"):
            raise ValueError(f"cannot fire for {ctx.key}")
        yield ctx.key


decode = msgspec.json.Decoder(Event).decode
SPEC = OperatorSpec(
    uid="breaking",
    name="Breaking",
    job="breaking",
    function=Breaking,
    source=keyed_source("events", decode, "user_id", out_of_orderness=timedelta(0)),
    output="fired",
)
NOW = 1_700_000_000_000


def send(job: JobHarness, user: str, timestamp: int) -> None:
    job.send("events", user, {"user_id": user, "timestamp": timestamp})


def headers(domain: str, time: int, user: str) -> dict[str, bytes]:
    return {
        "origin-topic": b"events",
        "origin-offset": b"-1",
        "error-class": b"ValueError",
        "error-message": b"cannot fire for " + user.encode(),
        "app": b"harness",
        "app-version": b"0",
        "operator": b"breaking",
        "attempt": b"1",
        "timer-domain": domain.encode(),
        "timer-time": b"%d" % time,
    }


@pytest.mark.parametrize("crash_before", range(6))
def test_a_timer_that_raises_is_one_dead_letter_whatever_dies_and_its_neighbours_fire(crash_before: int) -> None:
    with JobHarness(SPEC, partitions={"events": 1, "fired": 1, "events.dlq": 1}) as job:
        if crash_before:
            job.crash_before_commit(crash_before)
        for user in ("b1", "good", "b2"):
            send(job, user, 1)
        job.run()
        send(job, "later", 11)
        job.run()
        job.advance_processing_time(timedelta(seconds=1))
        letters = job.records("events.dlq")
        found = {(letter.key, letter.headers["timer-domain"]): letter for letter in letters}
        assert len(letters) == len(found) == 4
        for user in ("b1", "b2"):
            for domain, time in (("event", 11), ("processing", NOW + 1_000)):
                letter = found[user, domain.encode()]
                assert letter.value is None
                assert letter.headers == {**headers(domain, time, user), "origin-partition": b"0"}
            assert job.state("breaking", "fired", user) == 2
        assert job.read("fired").count("good") == 2
        assert job.read("events.dlq") == [None] * 4


def test_dead_timers_are_counted_as_dead_letters_and_as_timer_errors() -> None:
    with JobHarness(SPEC) as job:
        send(job, "b", 1)
        job.end_input()
        assert job.counters("breaking")["timer_errors", ""] == 1
        assert job._lanes[0].totals.dead_letters == 1


class Both(KeyedCoProcessFunction[Event, Event, str]):
    def process_element1(self, event: Event, ctx: Context) -> None:
        """Nothing waits for it."""

    def process_element2(self, event: Event, ctx: Context) -> None:
        ctx.timers.register_event_time(event.timestamp)

    def on_timer(self, timestamp_ms: int, ctx: Context) -> None:
        raise ValueError("no")


def test_of_two_inputs_the_dead_letters_of_timers_are_in_the_topic_of_the_first() -> None:
    spec = OperatorSpec(
        uid="both",
        name="Both",
        job="both",
        function=Both,
        source=keyed_source("first", decode, "user_id"),
        source2=keyed_source("second", decode, "user_id"),
    )
    with JobHarness(spec) as job:
        job.send("second", "u", {"user_id": "u", "timestamp": 5})
        job.end_input()
        (letter,) = job.records("first.dlq")
        assert (letter.key, letter.value, letter.headers["timer-time"]) == ("u", None, b"5")
        assert job.records("second.dlq") == []


def test_the_harness_raises_what_a_worker_would_write_and_goes_on() -> None:
    h = OperatorHarness(Breaking(), key=lambda e: e.user_id, timestamp=lambda e: e.timestamp)
    h.process(Event("b", 1))
    h.process(Event("good", 2))
    with pytest.raises(ValueError, match="cannot fire for b"):
        h.watermark(12)
    assert h.outputs == ["good"]
    assert [domain for domain, _ in h.timers("b")] == ["processing"]


def test_the_reason_of_a_dead_timer_says_which_timer_it_was() -> None:
    with JobHarness(SPEC) as job:
        send(job, "b", 1)
        job.end_input()
        (letter,) = job.records("events.dlq")
    reason = Reason.of(letter._replace(headers=list(letter.headers.items())))  # type: ignore[arg-type]
    assert (reason.timer, reason.timer_ms, reason.offset, reason.topic) == ("event", 11, -1, "events")


@pytest.mark.parametrize("crash_before", range(4))
def test_the_end_of_input_is_the_end_also_for_a_worker_that_dies_of_it(crash_before: int) -> None:
    with JobHarness(SPEC) as job:
        send(job, "good", 1)
        job.run()
        if crash_before:
            job.crash_before_commit(crash_before)
        job.end_input()
        assert job.read("fired") == ["good"]
