"""The history functions over one user's transactions: which entries a window holds, and what comes out."""

from __future__ import annotations

from math import inf

import pytest

from agents.rules import history
from models.history import HistoryEntry
from tests.support.past import Past

T = 1_700_000_000_000


def past(*ages_ms: int) -> Past:
    entries = (HistoryEntry(T - age, float(age), f"m{age % 2}", f"c{age % 3}") for age in ages_ms)
    return Past(sorted(entries, key=lambda entry: entry.timestamp))


def test_a_window_is_open_at_its_begin_and_closed_at_its_end() -> None:
    assert history.over_window("count", past(1001, 1000, 999, 0), T, 1000) == 2


def test_later_entries_are_in_no_window() -> None:
    assert history.over_window("count", past(500, 0, -1, -5000), T, 1000) == 2
    assert history.over_window("max_amount", past(500, 0, -1, -5000), T, 1000) == 500.0


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100])
def test_short_and_long_histories_count_alike(size: int) -> None:
    ages = range(0, size * 100, 100)
    for width in (1, 100, 101, 350, 5000, 10**6):
        assert history.over_window("count", past(*ages), T, width) == sum(age < width for age in ages)


def test_each_function_is_what_its_name_says() -> None:
    entries = past(5000, 3, 2, 1, 0)
    found = {name: history.over_window(name, entries, T, 1000) for name in history.WINDOW_FUNCTIONS}
    assert found == {
        "count": 4,
        "sum_amount": 6.0,
        "avg_amount": 1.5,
        "min_amount": 0.0,
        "max_amount": 3.0,
        "distinct_merchants": 2,
        "distinct_countries": 3,
    }


def test_an_empty_window_gives_zeros() -> None:
    found = {name: history.over_window(name, past(5000), T, 1000) for name in history.WINDOW_FUNCTIONS}
    assert set(found.values()) == {0}


def test_a_sum_is_rounded_once() -> None:
    entries = Past(HistoryEntry(T, 0.1) for _ in range(10))
    assert history.over_window("sum_amount", entries, T, 1000) == 1.0


def test_a_sum_survives_an_overflow_on_its_way() -> None:
    amounts = (1e308, 1e308, -1e308, -5e307)
    entries = Past(HistoryEntry(T, amount) for amount in amounts)
    assert history.over_window("sum_amount", entries, T, 1000) == 5e307
    assert history.over_window("sum_amount", Past(entries[:2]), T, 1000) == inf
    assert history.over_window("sum_amount", Past(HistoryEntry(T, -1e308) for _ in range(2)), T, 1000) == -inf


def test_the_previous_transaction_is_the_one_taken_before_whatever_its_time() -> None:
    entries = past(0)
    entries.previous = HistoryEntry(T + 1500, 7.0)
    assert history.has_previous(entries, T) is True
    assert history.previous_amount(entries, T) == 7.0
    assert history.seconds_since_previous(entries, T) == -1.5


def test_without_a_previous_transaction_there_is_nothing() -> None:
    entries = past(0)
    assert history.has_previous(entries, T) is False
    assert history.previous_amount(entries, T) == 0.0
    assert history.seconds_since_previous(entries, T) == 0.0
