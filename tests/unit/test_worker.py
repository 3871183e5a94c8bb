"""What our worker does beside Faust's."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest

from app import worker
from app.worker import LaneWorker


async def test_young_objects_are_looked_through_again_and_again_and_older_ones_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", collected.append)
    monkeypatch.setattr(worker, "COLLECT_OLDER", 3)
    running = SimpleNamespace(should_stop=False, slept=[])

    async def sleep(seconds: float) -> None:
        running.slept.append(seconds)
        running.should_stop = len(running.slept) > 7

    running.sleep = sleep
    await LaneWorker._collect.fun(running)
    assert collected == [0, 0, 1, 0, 0, 1, 0]
    assert set(running.slept) == {worker.COLLECT_SECONDS}
