"""A list's ``keep_last`` may be another one after a restart, on every store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tables import ListState, RingState, Ttl
from tests.contract.state_kit import Bed
from tests.contract.state_stores import STORES, StoreMaker, make_stores


class Step(msgspec.Struct):
    n: int
    kind: str


Declare = Callable[[int], Any]

KINDS: dict[str, Declare] = {
    "list": lambda last: ListState(Step, keep_last=last),
    "list with a time to live": lambda last: ListState(Step, keep_last=last, ttl=Ttl(timedelta(hours=1))),
    "list that keeps for a time": lambda last: ListState(Step, keep_last=last, keep_for=timedelta(hours=1)),
    "ring": lambda last: RingState(Step, keep_last=last, column="kind"),
}


@pytest.fixture
def stores(tmp_path: Path) -> StoreMaker:
    """Makes stores of a kind in a folder of the test."""
    return lambda kind: make_stores(kind, tmp_path)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(("before", "after"), [(10, 4), (4, 10), (5, 7), (7, 5), (40, 20), (20, 40)])
@pytest.mark.parametrize("kind", KINDS)
def test_another_bound_holds_from_the_restart_on(
    kind: str, before: int, after: int, store: str, stores: StoreMaker
) -> None:
    declare = KINDS[kind]
    bed = Bed(lambda: declare(before), stores(store))
    expected: list[int] = []
    for number in range(60):
        if number == 48:
            bed = bed.restart(lambda: declare(after))
        elif number > 48 and number % 2:
            bed = bed.restart()
        last = before if number < 48 else after
        bed.on("k").add(Step(number, str(number)))
        expected = [*expected, number][-last:]
        assert [step.n for step in bed.state.look("k")] == expected
        bed.cut()
    assert [step.n for step in bed.restart().state.look("k")] == expected


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_another_bound_kept_is_gone_from_the_changelog_when_it_is_cleared(
    kind: str, store: str, stores: StoreMaker
) -> None:
    declare = KINDS[kind]
    bed = Bed(lambda: declare(10), stores(store))
    for number in range(33):
        bed.on("k").add(Step(number, ""))
        bed.cut()
    bed = bed.restart(lambda: declare(4))
    assert [step.n for step in bed.state.look("k")] == [29, 30, 31, 32]
    bed.on("k").clear()
    bed.cut()
    assert bed.living_rows() == {}


def test_a_list_may_be_given_itself_to_append(stores: StoreMaker) -> None:
    bed = Bed(lambda: ListState(int), stores("memory"))
    state = bed.on("k")
    state.add_all([1, 2])
    state.add_all(state.get())
    assert list(state.get()) == [1, 2, 1, 2]
