"""A short, seeded sample of the kill -9 campaign over all jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.jobs import run

pytestmark = pytest.mark.slow


def test_all_jobs_lose_nothing_and_double_nothing_over_five_kills(tmp_path: Path) -> None:
    report = run(tmp_path, seed=3, kills=5, count=3_000)
    assert report.kills == 5
    assert report.exact, report.row()
    assert report.compared["summaries"] > 50
    assert report.compared["enriched orders"] > 1_000
    assert report.compared["pattern alerts"] > 5


def test_all_jobs_lose_nothing_and_double_nothing_on_kafka_either(tmp_path: Path, kafka_url: str) -> None:
    report = run(tmp_path, seed=4, kills=3, count=1_500, broker=kafka_url)
    assert report.kills == 3
    assert report.exact, report.row()
    assert report.compared["summaries"] > 30
    assert report.compared["enriched orders"] > 500
