"""What our worker does beside Faust's."""

from __future__ import annotations

import gc
import logging
from types import SimpleNamespace

import pytest

from app import memory
from app.worker import LaneWorker, OneLine
from models.errors import LogError


async def test_young_objects_are_looked_through_again_and_again_and_older_ones_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", collected.append)
    monkeypatch.setattr(memory, "COLLECT_OLDER", 3)
    running = SimpleNamespace(should_stop=False, slept=[])

    async def sleep(seconds: float) -> None:
        running.slept.append(seconds)
        running.should_stop = len(running.slept) > 7

    running.sleep = sleep
    await LaneWorker._collect.fun(running)
    assert collected == [0, 0, 1, 0, 0, 1, 0]
    assert set(running.slept) == {memory.COLLECT_SECONDS}


def logged(*records: tuple[str, tuple[object, ...], BaseException | None]) -> list[str]:
    """What passes of (text, arguments, exception) that are logged one after the other."""
    only, passed = OneLine(), []
    for text, args, error in records:
        info = (type(error), error, None) if error is not None else None
        record = logging.LogRecord("mode", logging.ERROR, __file__, 1, text, args, info)
        if only.filter(record):
            passed.append(record.getMessage())
    return passed


def test_what_ended_the_worker_is_one_line_of_its_log() -> None:
    error = LogError("the broker does not allow it; grant this user the right")
    fatal = ("FATAL %s: %s: %s; %s", ("reading from Kafka", "LogError", error, "start the worker again"), None)
    echo = ("[^-App]: Crashed reason=%r", (error,), None)
    last_words = ("[^Worker]: We experienced a crash! Reraising original exception...", (), None)
    other = ("[^-App]: Crashed reason=%r", (ValueError("another"),), None)
    told = "FATAL reading from Kafka: LogError: the broker does not allow it; grant this user the right; start the worker again"
    assert logged(fatal, echo, ("", (), error), last_words, other) == [
        told,
        "[^-App]: Crashed reason=ValueError('another')",
    ]
    assert logged(("Drain raised", (), error), echo) == [f"FATAL LogError: {error}"]
    assert logged(last_words) == [last_words[0]]
