"""A short, seeded sample of the kill -9 campaign; ``make faults`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.campaign import run


@pytest.mark.slow
def test_ten_kills_lose_nothing_double_nothing_and_leave_the_state_exact(tmp_path: Path) -> None:
    report = run(tmp_path, seed=11, kills=10, count=12_000)
    assert report.kills == 10
    assert report.expected > 1_000
    assert report.exact, report.row()
