"""A short, seeded sample of the kill -9 campaign; ``make faults`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.campaign import Plan, run


@pytest.mark.slow
@pytest.mark.parametrize(("store", "seed", "kills"), [("memory", 11, 5), ("rocksdb", 12, 3)])
def test_kills_lose_nothing_double_nothing_and_leave_the_state_exact(
    store: str, seed: int, kills: int, tmp_path: Path
) -> None:
    report = run(tmp_path, Plan(seed=seed, kills=kills, count=50_000, rate=600, store=store, patience=4))
    assert report.kills == kills
    assert report.expected > 100
    assert report.exact, report.row()
