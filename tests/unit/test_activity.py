"""Simulated visits, orders and payments: a function of the seed, with outcomes that the jobs must find."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.functions.orders import OrderPaymentJoin
from agents.functions.profiles import UserProfiles
from agents.testing import OperatorHarness
from app.activity import TRANSACTIONS_PER_VISIT, Acted, Happening, activity
from app.simulate import Live, Past, Timeline
from app.traffic import TOPICS, traffic
from models.events import UserEvent
from models.orders import Order

NOW = 1_700_000_000_000

timelines = st.one_of(
    st.builds(Past.ending_at, st.just(NOW), st.integers(0, 2_000)),
    st.builds(Live, st.integers(0, 2_000), st.just(NOW), st.floats(0.01, 1e5)),
)


def endless(visits: int, seed: int = 1) -> list[Acted]:
    """The first records of live traffic, enough for so many visits."""
    return list(islice(activity(seed, Live(None, NOW, 50.0)), visits * 10))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), timelines)
def test_the_same_seed_and_times_give_the_same_records_in_order_of_time(seed: int, timeline: Timeline) -> None:
    records = list(traffic(seed, timeline))
    assert records == list(traffic(seed, timeline))
    times = [one.timestamp for one in records]
    assert times == sorted(times)
    assert timeline.total is not None
    assert all(time < timeline.time_at(timeline.total) or time <= NOW for time in times)


def test_every_topic_gets_its_share() -> None:
    counts = Counter(one.topic for one in traffic(1, Past.ending_at(NOW, 4_000)))
    assert counts["user-transactions"] == 4_000
    assert counts["user-events"] > 4_000 / TRANSACTIONS_PER_VISIT * 4
    assert min(counts[topic] for topic in TOPICS) > 20


def test_ids_are_unique() -> None:
    labels = [next(iter(one.label.items())) for one in endless(500)]
    assert len(set(labels)) == len(labels)


def test_a_visit_is_one_session_of_one_user() -> None:
    users: dict[str, set[str]] = {}
    for one in endless(500):
        if isinstance(one.record, UserEvent):
            users.setdefault(one.record.session_id or "", set()).add(one.record.user_id)
    assert max(map(len, users.values())) == 1


def test_the_join_finds_exactly_the_planted_outcomes() -> None:
    made = [one for one in activity(5, Past(40_000, NOW - 86_400_000, NOW)) if not isinstance(one.record, UserEvent)]
    harness = OperatorHarness(
        OrderPaymentJoin(),
        key=lambda one: one.order_id,
        timestamp=lambda one: one.timestamp,
        out_of_orderness=timedelta(seconds=10),
    )
    for one in made:
        (harness.process1 if isinstance(one.record, Order) else harness.process2)(one.record)
    harness.end_input()
    planted = Counter(one.scenario for one in made)
    found = Counter(one.status.value for one in harness.outputs)
    late, stray = planted[Happening.LATE_PAYMENT], planted[Happening.STRAY_PAYMENT]
    assert min(planted[Happening.UNPAID_ORDER], late, stray) > 5
    orders = sum(isinstance(one.record, Order) for one in made)
    # An order or payment in the last minutes may have lost its other half to the end of the simulation.
    assert 0 <= found["PAYMENT_TIMEOUT"] - planted[Happening.UNPAID_ORDER] - late <= 5
    assert abs(found["ORDER_NOT_FOUND"] - late - stray) <= 5
    assert found["MATCHED"] == orders - found["PAYMENT_TIMEOUT"]


def test_every_planted_takeover_raises_its_alert() -> None:
    made = endless(2_000)
    harness = OperatorHarness(UserProfiles(), key=lambda one: one.user_id, timestamp=lambda one: one.timestamp)
    for one in made:
        if isinstance(one.record, UserEvent):
            harness.process(one.record)
    planted = {
        one.record.event_id for one in made if one.scenario is Happening.TAKEOVER and isinstance(one.record, UserEvent)
    }
    assert len(planted) > 20
    assert {one.transaction_id for one in harness.outputs if one.rule_id == "PATTERN_TAKEOVER"} == planted
