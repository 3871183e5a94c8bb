"""A short, seeded sample of the kill -9 campaign over all jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.jobs import run


@pytest.mark.slow
def test_all_jobs_lose_nothing_and_double_nothing_over_five_kills(tmp_path: Path) -> None:
    report = run(tmp_path, seed=3, kills=5, count=3_000)
    assert report.kills == 5
    assert report.exact, report.row()
    assert report.compared["summaries"] > 50
    assert report.compared["enriched orders"] > 1_000
    assert report.compared["pattern alerts"] > 5
