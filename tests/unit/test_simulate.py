"""The simulated traffic: a function of its seed, with planted fraud in known numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.simulate import (
    ABROAD,
    BLOCK,
    EPISODES,
    MAX_NORMAL,
    Live,
    Past,
    Scenario,
    Simulated,
    Timeline,
    planted,
    simulate,
)

NOW = 1_700_000_000_000
DAY = 86_400_000

timelines = st.one_of(
    st.builds(Past.ending_at, st.just(NOW), st.integers(0, 3 * BLOCK)),
    st.builds(Live, st.integers(0, 3 * BLOCK), st.just(NOW), st.floats(0.01, 1e5)),
)


def made(total: int, seed: int = 1) -> list[Simulated]:
    return list(simulate(seed, Past.ending_at(NOW, total)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), timelines)
def test_the_same_seed_and_times_give_the_same_transactions(seed: int, timeline: Timeline) -> None:
    assert list(simulate(seed, timeline)) == list(simulate(seed, timeline))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), timelines)
def test_there_are_as_many_transactions_of_each_scenario_as_foretold(seed: int, timeline: Timeline) -> None:
    assert timeline.total is not None
    assert Counter(scenario for _, scenario in simulate(seed, timeline)) == planted(timeline.total)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), timelines)
def test_event_times_never_go_back(seed: int, timeline: Timeline) -> None:
    times = [transaction.timestamp for transaction, _ in simulate(seed, timeline)]
    assert times == sorted(times)


def test_another_seed_gives_other_transactions() -> None:
    assert made(BLOCK, seed=1) != made(BLOCK, seed=2)


@pytest.mark.parametrize("total", [1, 100, 5_000])
def test_the_past_ends_about_now_and_not_in_the_future(total: int) -> None:
    last = made(total)[-1].transaction.timestamp
    assert last < NOW
    if total > 1:
        assert NOW - last < DAY / 4


def test_live_traffic_has_the_rate_that_was_asked_for() -> None:
    timeline = Live(None, NOW, 50.0)
    times = [transaction.timestamp - NOW for transaction, _ in islice(simulate(3, timeline), 1000)]
    assert times[-1] == pytest.approx(20_000, rel=0.02)


def test_more_is_bought_by_day_than_by_night() -> None:
    hours = Counter((transaction.timestamp // 3_600_000) % 24 for transaction, _ in made(10_000))
    assert sum(hours[hour] for hour in range(10, 20)) > 4 * sum(hours[hour] for hour in range(0, 7))


def test_identifiers_are_unique_and_amounts_have_cents() -> None:
    transactions = [transaction for transaction, _ in made(2_000)]
    assert len({transaction.transaction_id for transaction in transactions}) == 2_000
    assert all(transaction.amount == round(transaction.amount, 2) > 0 for transaction in transactions)


def test_only_the_planted_high_amounts_are_above_ten_thousand() -> None:
    for transaction, scenario in made(5_000):
        if scenario is Scenario.HIGH_AMOUNT:
            assert transaction.amount > 10_000
        else:
            assert transaction.amount <= MAX_NORMAL


def test_a_burst_is_seven_payments_of_one_user_within_three_minutes() -> None:
    burst = [transaction for transaction, scenario in made(BLOCK) if scenario is Scenario.BURST]
    assert len(burst) == EPISODES[Scenario.BURST]
    assert len({transaction.user_id for transaction in burst}) == 1
    assert burst[-1].timestamp - burst[0].timestamp <= 3 * 60_000


def test_a_compromised_terminal_takes_the_cards_of_several_users() -> None:
    taken = [t for t, scenario in made(2 * BLOCK) if scenario is Scenario.COMPROMISED_TERMINAL]
    assert len({transaction.attributes["terminal"] for transaction in taken}) == 1
    assert len({transaction.user_id for transaction in taken}) > 1


def test_a_stolen_card_is_used_abroad_for_amounts_that_jump() -> None:
    everything = made(3 * BLOCK)
    stolen = [transaction for transaction, scenario in everything if scenario is Scenario.STOLEN_CARD]
    assert len(stolen) == EPISODES[Scenario.STOLEN_CARD]
    (user,) = {transaction.user_id for transaction in stolen}
    before = [
        t.amount
        for t, s in everything
        if t.user_id == user and s is Scenario.NORMAL and t.timestamp < stolen[0].timestamp
    ]
    assert len(before) >= 4
    assert min(t.amount for t in stolen) > 2 * sum(before) / len(before)
    assert {transaction.country for transaction in stolen} <= set(ABROAD)


def test_normal_users_pay_at_home_and_keep_to_a_few_merchants() -> None:
    countries, merchants = defaultdict(set), defaultdict(set)
    for transaction, scenario in made(5_000):
        if scenario is Scenario.NORMAL:
            countries[transaction.user_id].add(transaction.country)
            merchants[transaction.user_id].add(transaction.merchant)
    assert max(map(len, countries.values())) == 1
    assert max(map(len, merchants.values())) <= 9
