"""Async functions: order, capacity, timeouts, retries, and what a crash with calls in flight loses and doubles (nothing)."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import AsyncFunction, AsyncTimeout, ExponentialRetry, FixedRetry, OperatorSpec, keyed_source
from agents.testing import Advance, Crash, JobHarness, OperatorHarness
from models.errors import StateError

SECOND = timedelta(seconds=1)


class Event(msgspec.Struct):
    user: str
    n: int
    #: seconds that the call takes
    takes: float = 0.0
    timestamp: int = 1


class Lookup(AsyncFunction[Event, Any]):
    """Takes the time that the event says; counts what runs at once."""

    running = 0
    most = 0
    calls: list[int]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls = []

    async def invoke(self, event: Event) -> Any:
        self.calls.append(event.n)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(event.takes)
        finally:
            self.running -= 1
        return event.n


def harness(function: AsyncFunction[Any, Any]) -> OperatorHarness:
    return OperatorHarness(function, key=lambda e: e.user, timestamp=lambda e: e.timestamp)


def feed(h: OperatorHarness, *takes: float) -> None:
    for n, seconds in enumerate(takes):
        h.process(Event("u", n, seconds))


def test_a_result_that_is_there_at_once_is_emitted_at_once() -> None:
    h = harness(Lookup())
    h.process(Event("u", 7))
    assert h.outputs == [7]


def test_ordered_results_leave_in_the_order_of_the_records() -> None:
    h = harness(Lookup(ordered=True))
    feed(h, 3, 1, 2)
    h.advance_processing_time(2 * SECOND)
    assert h.outputs == []
    h.advance_processing_time(SECOND)
    assert h.outputs == [0, 1, 2]


def test_unordered_results_leave_as_they_come() -> None:
    h = harness(Lookup(ordered=False))
    feed(h, 3, 1, 2)
    h.advance_processing_time(SECOND)
    assert h.outputs == [1]
    h.end_input()
    assert h.outputs == [1, 2, 0]


@pytest.mark.parametrize("ordered", [True, False])
def test_never_more_calls_than_the_capacity_are_in_flight_and_the_source_waits(ordered: bool) -> None:
    function = Lookup(ordered=ordered, capacity=3)
    h = harness(function)
    feed(h, *[1] * 10)
    assert function.calls == [0, 1, 2]
    assert h.in_flight == 3
    h.end_input()
    assert function.most == 3
    assert (h.outputs if ordered else sorted(h.outputs)) == list(range(10))


def test_ordered_results_that_wait_for_an_earlier_one_count_against_the_capacity() -> None:
    function = Lookup(ordered=True, capacity=2)
    h = harness(function)
    feed(h, 4, 1, 1)
    h.advance_processing_time(2 * SECOND)
    assert function.calls == [0, 1]
    h.end_input()
    assert h.outputs == [0, 1, 2]


def test_a_result_may_be_several_values_or_none() -> None:
    class Several(AsyncFunction[Event, int]):
        async def invoke(self, event: Event) -> list[int] | None:
            return [event.n] * event.n if event.n else None

    h = harness(Several())
    feed(h, 0, 0, 0)
    assert h.outputs == [1, 2, 2]


def test_a_call_that_takes_too_long_is_cancelled_and_the_fallback_is_emitted() -> None:
    class Fallback(Lookup):
        def timeout(self, event: Event) -> Any:
            return "default", event.n

    function = Fallback(timeout=2 * SECOND)
    h = harness(function)
    feed(h, 10, 1)
    h.advance_processing_time(2 * SECOND)
    assert h.outputs == [("default", 0), 1]
    assert function.running == 0


def test_without_a_fallback_a_timeout_is_the_records_error() -> None:
    h = harness(Lookup(timeout=SECOND))
    h.process(Event("u", 1, 5))
    with pytest.raises(AsyncTimeout, match="no answer within 0:00:01"):
        h.advance_processing_time(SECOND)


def test_a_timeout_of_the_functions_own_is_an_error_like_any_other() -> None:
    class Own(Lookup):
        async def invoke(self, event: Event) -> Any:
            raise TimeoutError("the database's own")

    with pytest.raises(TimeoutError, match="the database's own"):
        harness(Own()).process(Event("u", 1))


class Flaky(Lookup):
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: Exception | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.failures = failures
        self.error = error or ConnectionError("down")
        self.at: list[float] = []

    async def invoke(self, event: Event) -> Any:
        self.at.append(asyncio.get_running_loop().time())
        if len(self.at) <= self.failures:
            raise self.error
        return event.n


def test_a_fixed_retry_tries_so_many_times_at_equal_distances() -> None:
    function = Flaky(2, retry=FixedRetry(attempts=3, delay=SECOND))
    h = harness(function)
    h.process(Event("u", 7))
    h.advance_processing_time(2 * SECOND)
    assert h.outputs == [7]
    assert function.at == [0, 1, 2]


def test_after_the_last_attempt_its_error_is_the_records() -> None:
    h = harness(Flaky(3, retry=FixedRetry(attempts=3, delay=SECOND)))
    h.process(Event("u", 7))
    with pytest.raises(ConnectionError, match="down"):
        h.advance_processing_time(2 * SECOND)


def test_an_exponential_retry_waits_longer_each_time_up_to_a_bound() -> None:
    retry = ExponentialRetry(attempts=6, first=SECOND, factor=2, most=5 * SECOND, jitter=0)
    assert list(retry.delays()) == [1, 2, 4, 5, 5]


def test_jitter_leaves_a_part_of_each_delay_to_chance() -> None:
    retry = ExponentialRetry(attempts=3, first=SECOND, jitter=0.5, chance=iter((0.0, 1.0)).__next__)
    assert list(retry.delays()) == [1, 1]
    assert all(0.5 <= delay <= 1 for delay in ExponentialRetry(attempts=2, first=SECOND).delays())


def test_the_predicate_says_which_errors_are_worth_another_try() -> None:
    function = Flaky(
        1, ValueError("wrong for ever"), retry=FixedRetry(retry_error=lambda exc: isinstance(exc, OSError))
    )
    with pytest.raises(ValueError, match="wrong for ever"):
        harness(function).process(Event("u", 1))
    assert len(function.at) == 1


@pytest.mark.parametrize("kinds", [OSError, (OSError, KeyError)])
def test_errors_worth_another_try_may_be_given_as_except_takes_them(kinds: Any) -> None:
    for retry in (FixedRetry(retry_error=kinds), ExponentialRetry(retry_error=kinds)):
        wrong, down = Flaky(1, ValueError("wrong for ever"), retry=retry), Flaky(1, retry=retry)
        with pytest.raises(ValueError, match="wrong for ever"):
            harness(wrong).process(Event("u", 1))
        assert len(wrong.at) == 1
        h = harness(down)
        h.process(Event("u", 1))
        h.end_input()
        assert h.outputs == [1]


def test_a_result_may_be_worth_another_try_too() -> None:
    class Empty(Flaky):
        async def invoke(self, event: Event) -> Any:
            self.at.append(0)
            return None if len(self.at) <= self.failures else event.n

    h = harness(Empty(2, retry=FixedRetry(attempts=5, delay=SECOND, retry_result=lambda result: result is None)))
    h.process(Event("u", 7))
    h.end_input()
    assert h.outputs == [7]


def test_the_timeout_is_for_all_attempts_together() -> None:
    class Patient(Flaky):
        def timeout(self, event: Event) -> Any:
            return "gave up"

    h = harness(Patient(100, timeout=3 * SECOND, retry=FixedRetry(attempts=100, delay=2 * SECOND)))
    h.process(Event("u", 1))
    h.advance_processing_time(3 * SECOND)
    assert h.outputs == ["gave up"]


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"retry": {"attempts": 0}}, {"retry": {"jitter": 2}}])
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StateError):
        Lookup(capacity=wrong.get("capacity", 1), retry=ExponentialRetry(**wrong.get("retry", {})))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("commit_every", [1, 3])
def test_a_crash_with_calls_in_flight_loses_and_doubles_nothing(ordered: bool, commit_every: int) -> None:
    takes = (3.0, 0, 1, 5, 0.5, 0, 2, 1)
    script: list[Any] = []
    for n, seconds in enumerate(takes):
        script += [Event("u", n, seconds), Advance(timedelta(milliseconds=700))]
    for at in range(0, len(script), 2):
        h = harness(Lookup(ordered=ordered, timeout=None))
        h.run([*script[:at], Crash(), *script[at:], Crash()], commit_every=commit_every)
        h.end_input()
        assert sorted(h.outputs) == list(range(len(takes)))
        if ordered:
            assert h.outputs == sorted(h.outputs)


def test_what_is_done_beyond_the_marker_is_not_called_again_after_a_restart() -> None:
    h = harness(Lookup(ordered=False))
    feed(h, 10, 0, 0)
    assert h.next_offset == 0
    again = h.restore(Lookup(ordered=False), h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
    feed(again, 0, 0, 0)  # the log gives everything from the marker on again
    assert again.outputs == [0]
    assert again.next_offset == 3


# -- in a job


SPEC = OperatorSpec(
    uid="enrichment",
    name="Enrichment",
    job="enrichment",
    function=lambda: Lookup(ordered=False, capacity=4),
    source=keyed_source("user-events", msgspec.json.Decoder(Event).decode, "user"),
    output="enriched-user-events",
)


@pytest.mark.parametrize("crash_before", [None, 1, 2, 3])
def test_in_a_job_every_record_is_answered_once_whatever_dies(crash_before: int | None) -> None:
    with JobHarness(SPEC) as job:
        if crash_before:
            job.crash_before_commit(crash_before)
        for n in range(40):
            job.send("user-events", f"u{n}", Event(f"u{n}", n, (n * 7 % 5) / 10))
        assert sorted(job.read("enriched-user-events")) == list(range(40))


def test_in_a_job_a_record_that_fails_goes_to_the_dead_letters_and_its_neighbours_do_not() -> None:
    class Picky(AsyncFunction[Event, int]):
        async def invoke(self, event: Event) -> int:
            if event.n == 1:
                raise ValueError("not this one")
            return event.n

    picky = OperatorSpec(
        uid="picky", name="Picky", job="picky", function=Picky, source=SPEC.source, output="enriched-user-events"
    )
    with JobHarness(picky) as job:
        for n in range(3):
            job.send("user-events", "u", Event("u", n))
        job.send("user-events", "u", b"{}")
        assert job.read("enriched-user-events") == [0, 2]
        letters = job.records("user-events.dlq")
        assert [letter.headers["origin-offset"] for letter in letters] == [b"1", b"3"]
        assert letters[0].headers["error-message"] == b"not this one"


@pytest.mark.parametrize("ordered", [True, False])
def test_a_call_whose_own_task_was_cancelled_is_a_dead_letter_and_holds_nobody_up(ordered: bool) -> None:
    class Cancelled(AsyncFunction[Event, int]):
        async def invoke(self, event: Event) -> int:
            if event.n == 1:
                inner = asyncio.ensure_future(asyncio.sleep(1))
                inner.cancel()
                await inner
            return event.n

    spec = OperatorSpec(
        uid="cancelled",
        name="Cancelled",
        job="cancelled",
        function=lambda: Cancelled(ordered=ordered, capacity=1),
        source=SPEC.source,
        output="enriched-user-events",
    )
    with JobHarness(spec) as job:
        for n in range(3):
            job.send("user-events", "u", Event("u", n))
        assert job.read("enriched-user-events") == [0, 2]
        assert "was cancelled" in job.records("user-events.dlq")[0].headers["error-message"].decode()


def test_calls_may_use_threads() -> None:
    class Threaded(AsyncFunction[Event, int]):
        async def invoke(self, event: Event) -> int:
            return await asyncio.to_thread(self._slow, event.n)

        @staticmethod
        def _slow(n: int) -> int:
            time.sleep(0.01)
            return n

    h = harness(Threaded(timeout=None))
    feed(h, 0, 0)
    h.end_input()
    assert h.outputs == [0, 1]


async def test_the_harness_works_inside_a_running_loop() -> None:
    h = harness(Lookup())
    h.process(Event("u", 1, 1))
    h.advance_processing_time(SECOND)
    assert h.outputs == [1]


def test_a_harness_that_is_forgotten_with_calls_in_flight_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    h = harness(Lookup(capacity=1))
    feed(h, 1, 1)
    assert h.in_flight == 1
    del h
    gc.collect()
    assert caplog.text == ""


def test_an_async_function_has_metrics_of_its_own_in_a_harness_and_in_a_job() -> None:
    class Counting(AsyncFunction[Event, int]):
        def __init__(self) -> None:
            """Without that of its base."""

        async def open(self) -> None:
            self.hits = self.metrics.counter("hits", "cache")

        async def invoke(self, event: Event) -> int:
            self.hits.inc()
            self.metrics.meter("calls").mark(5)
            self.metrics.gauge("last").set(event.n)
            return event.n

    h = harness(Counting())
    feed(h, 0, 0)
    assert h.counters()["hits", "cache"] == 2
    assert h.metrics.gauge("last").value == 1
    assert h.metrics.meter("calls").rate == 2.0
    spec = OperatorSpec(uid="c", name="C", job="c", function=Counting, source=SPEC.source, output="out")
    with JobHarness(spec) as job:
        job.send("user-events", "u", Event("u", 1))
        job.send("user-events", "v", Event("v", 1))
        assert job.counters("c")["hits", "cache"] == 2


def test_the_function_is_opened_before_its_first_call() -> None:
    class Opened(Lookup):
        pool = ""

        async def open(self) -> None:
            await asyncio.sleep(0)
            self.pool = "open"

        async def invoke(self, event: Event) -> Any:
            return self.pool

    h = harness(Opened())
    h.process(Event("u", 1))
    assert h.outputs == ["open"]
