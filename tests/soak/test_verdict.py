"""The verdict of a soak: flat is flat, and whatever grows is found."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from tables.log import TopicPartition
from tests.soak.samples import Sample, grown
from tests.soak.verdict import Limits, judge, settled, slope

#: An hour, looked at every ten seconds; CPU comes in clock ticks.
FLAT = [
    Sample(
        seconds=10.0 * n, memory=80.0, cpu=round(0.2 * n + n % 3 / 100, 2), files=20, sockets=8, threads=4, ready=True
    )
    for n in range(361)
]


def test_nothing_that_changes_is_flat() -> None:
    found = judge(FLAT, Limits())
    assert found.wrong == ()
    assert found.memory == (80.0, 80.0)
    assert found.memory_per_hour == pytest.approx(0)
    assert found.cpu == pytest.approx((0.02, 0.02), abs=0.002)


def test_memory_that_grows_slowly_and_noisily_is_found_with_its_slope() -> None:
    chance = random.Random(1)
    leaking = [replace(one, memory=80 + one.seconds / 1200 + chance.uniform(-0.2, 0.2)) for one in FLAT]
    found = judge(leaking, Limits())
    assert found.memory_per_hour == pytest.approx(3, rel=0.05)
    assert [reason.startswith("memory grew by 1.") for reason in found.wrong] == [True]


def test_what_is_loaded_in_the_first_quarter_is_no_growth() -> None:
    assert judge([replace(one, memory=80 if one.seconds < 800 else 95) for one in FLAT], Limits()).wrong == ()


def test_a_moment_of_much_memory_or_work_decides_nothing() -> None:
    jump = [replace(one, memory=200 if 3000 < one.seconds < 3100 else 80) for one in FLAT]
    jump = [replace(one, cpu=one.cpu + (5 if one.seconds > 2000 else 0)) for one in jump]
    assert judge(jump, Limits()).wrong == ()


def test_work_without_anything_to_do_is_found() -> None:
    busy = [replace(one, cpu=one.seconds * 0.04) for one in FLAT]
    assert judge(busy, Limits()).wrong == ("4.0% of a core with nothing to do",)


def test_work_that_becomes_more_is_found() -> None:
    rising = [replace(one, cpu=one.seconds**2 / 3600 * 0.01) for one in FLAT]
    assert judge(rising, Limits()).wrong == ("CPU rose from 0.8% to 1.8%",)


@pytest.mark.parametrize("what", ["files", "sockets", "threads"])
def test_descriptors_and_threads_that_pile_up_are_found(what: str) -> None:
    kinds = dict.fromkeys(("files", "sockets", "threads"), 10)
    piling = [replace(one, **(kinds | {what: 10 + int(one.seconds // 600)}), ready=True) for one in FLAT]
    assert judge(piling, Limits()).wrong == (f"{what}: 12 became 15",)


def test_a_worker_that_is_not_ready_once_is_found_and_so_is_a_spare_that_is() -> None:
    absent = [replace(one, ready=one.seconds != 1000) for one in FLAT]
    assert judge(absent, Limits()).wrong == ("not ready at 1 of 361 looks",)
    assert judge(absent, Limits(), ready=False).wrong == ("ready at 360 of 361 looks",)


def test_the_slope_is_the_same_however_many_points_there_are() -> None:
    line = [(float(n), 3.0 * n) for n in range(2000)]
    assert slope(line) == pytest.approx(3)
    assert slope(line[:2]) == pytest.approx(3)
    assert slope(line[:1]) == 0


def test_the_first_quarter_of_the_time_is_left_out() -> None:
    points = [(seconds, 0.0) for seconds in itertools.chain(range(100, 110), range(110, 141, 10))]
    assert [seconds for seconds, _ in settled(points)] == [110, 120, 130, 140]


def test_topics_that_grew_are_named_with_by_how_much() -> None:
    a, b, c = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("c", 0)
    assert grown({a: 1, b: 2}, {a: 3, b: 2, c: 0}) == {"a": 2}
    assert grown({a: 1}, {a: 1, b: 5, c: 1}) == {"a": 5, "c": 1}
