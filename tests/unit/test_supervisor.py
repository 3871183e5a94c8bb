"""The parent of several workers: how soon one is started again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.supervisor import RestartPolicy, count_of
from models.errors import SettingsError


def test_a_worker_that_keeps_ending_is_started_ever_later_up_to_a_bound() -> None:
    policy = RestartPolicy(first=timedelta(milliseconds=100), longest=timedelta(seconds=5))
    assert [policy.delay(failures) for failures in (1, 2, 3, 4, 50)] == [0.1, 0.4, 1.6, 5.0, 5.0]


def test_auto_means_one_worker_a_core() -> None:
    assert count_of("auto") >= 1
    assert count_of("3") == 3


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(SettingsError, match="--processes many"):
        count_of("many")
