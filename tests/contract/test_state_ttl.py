"""One contract for a time to live: every kind, store, update rule, visibility and clock, with a restart between every two steps."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from models.errors import StateError
from tables import AggregatingState, ListState, MapState, ReducingState, TimeSeriesState, Ttl, ValueState
from tests.contract.state_kit import START, Bed
from tests.contract.state_stores import STORES, StoreMaker, make_stores
from tests.contract.test_state_kinds import Mean, Point

TTL = 10_000
WRITE, READ = Ttl.Update.ON_CREATE_AND_WRITE, Ttl.Update.ON_READ_AND_WRITE
NEVER, VISIBLE = Ttl.Visibility.NEVER_RETURN_EXPIRED, Ttl.Visibility.RETURN_EXPIRED_IF_NOT_CLEANED_UP
PROCESSING, EVENT = Ttl.Time.PROCESSING, Ttl.Time.EVENT


class Kind:
    """How to declare, write and read a kind; ``read`` gives ``None`` for nothing."""

    def __init__(
        self,
        declare: Callable[[Ttl | None], Any],
        write: Callable[[Any, int], Any],
        read: Callable[[Any], Any],
        one: Callable[[int], Any],
    ) -> None:
        self.declare = declare
        self.write = write
        self.read = read
        self.one = one


def _get(state: Any) -> Any:
    return state.get()


KINDS = {
    "value": Kind(lambda ttl: ValueState(int, ttl=ttl), lambda s, n: s.update(n), lambda s: s.value(), lambda n: n),
    "reducing": Kind(lambda ttl: ReducingState(int, max, ttl=ttl), lambda s, n: s.add(n), _get, lambda n: n),
    "aggregating": Kind(lambda ttl: AggregatingState(Mean(), ttl=ttl), lambda s, n: s.add(n), _get, lambda n: n),
    "list": Kind(
        lambda ttl: ListState(int, ttl=ttl), lambda s, n: s.add(n), lambda s: list(s.get()) or None, lambda n: [n]
    ),
    "map": Kind(lambda ttl: MapState(str, int, ttl=ttl), lambda s, n: s.put("e", n), lambda s: s.get("e"), lambda n: n),
    "series": Kind(
        lambda ttl: TimeSeriesState(Point, time=lambda p: p.time, ttl=ttl),
        lambda s, n: s.add(Point(START, n)),
        lambda s: [p.n for p in s.get() or ()] or None,
        lambda n: [n],
    ),
}
ALL = [
    pytest.param(
        kind, store, update, visibility, time, id=f"{kind}-{store}-{update.value}-{visibility.value}-{time.value}"
    )
    for kind, store, update, visibility, time in itertools.product(
        KINDS, STORES, (WRITE, READ), (NEVER, VISIBLE), (PROCESSING, EVENT)
    )
]
KIND_AND_STORE = list(itertools.product(KINDS, STORES))


def ttl(**options: Any) -> Ttl:
    return Ttl(timedelta(milliseconds=TTL), **options)


@pytest.fixture
def stores(tmp_path: Path) -> StoreMaker:
    """Makes stores of a kind in a folder of the test."""
    return lambda kind: make_stores(kind, tmp_path)


@pytest.mark.parametrize(("kind", "store", "update", "visibility", "time"), ALL)
def test_a_row_is_there_until_just_before_its_time_to_live_is_over(
    kind: str, store: str, update: Ttl.Update, visibility: Ttl.Visibility, time: Ttl.Time, stores: StoreMaker
) -> None:
    what = KINDS[kind]
    options = ttl(update=update, visibility=visibility, time=time)
    bed = Bed(lambda: what.declare(options), stores(store))
    what.write(bed.on("k"), 7)
    bed.cut()
    bed = bed.restart().at(START + TTL - 1)
    assert what.read(bed.on("k")) == what.one(7)
    bed.cut()
    # Read once: with on-read-and-write its life began anew, else it ends now.
    bed = bed.restart().at(START + TTL)
    renewed = update is READ
    assert what.read(bed.on("k")) == (what.one(7) if renewed or visibility is VISIBLE else None)
    bed.cut()
    bed = bed.restart().at(START + 2 * TTL - 1 + (TTL if renewed else 0))
    if visibility is NEVER:
        assert what.read(bed.on("k")) is None
        assert bed.state.look("k") is None
        assert list(bed.state.stored_keys()) == []
        bed.cut()
        assert bed.living_rows() == {}


@pytest.mark.parametrize(("kind", "store"), KIND_AND_STORE)
def test_expiry_counts_within_one_process_as_it_does_over_restarts(kind: str, store: str, stores: StoreMaker) -> None:
    what = KINDS[kind]
    bed = Bed(lambda: what.declare(ttl()), stores(store))
    what.write(bed.on("k"), 7)
    bed.at(START + TTL - 1)
    assert what.read(bed.on("k")) == what.one(7)
    bed.at(START + TTL)
    assert what.read(bed.on("k")) is None
    what.write(bed.on("k"), 8)
    assert what.read(bed.on("k")) == what.one(8)
    bed.at(START + 2 * TTL)
    assert what.read(bed.on("k")) is None


@pytest.mark.parametrize(("kind", "store"), KIND_AND_STORE)
def test_a_write_after_expiry_begins_with_nothing(kind: str, store: str, stores: StoreMaker) -> None:
    what = KINDS[kind]
    bed = Bed(lambda: what.declare(ttl()), stores(store))
    what.write(bed.on("k"), 9)
    bed.cut()
    bed = bed.restart().at(START + TTL)
    what.write(bed.on("k"), 5)
    bed.cut()
    assert what.read(bed.restart().on("k")) == what.one(5)


@pytest.mark.parametrize(("kind", "store"), KIND_AND_STORE)
def test_a_late_record_lives_as_long_as_others_in_event_time(kind: str, store: str, stores: StoreMaker) -> None:
    what = KINDS[kind]
    bed = Bed(lambda: what.declare(ttl(time=EVENT)), stores(store))
    bed.context.timestamp_ms = START - 3 * TTL
    what.write(bed.on("k"), 7)
    bed.cut()
    bed = bed.restart()
    bed.context.watermark_ms = START + TTL - 1
    assert what.read(bed.on("k")) == what.one(7)
    bed.context.watermark_ms = START + TTL
    assert what.read(bed.on("k")) is None


@pytest.mark.parametrize(("kind", "store"), KIND_AND_STORE)
@pytest.mark.parametrize("warm", [True, False], ids=["in-memory", "in-store"])
def test_a_sweep_removes_what_nobody_reads_from_memory_and_changelog(
    kind: str, store: str, warm: bool, stores: StoreMaker
) -> None:
    what = KINDS[kind]
    bed = Bed(lambda: what.declare(ttl()), stores(store))
    for number in range(300):
        what.write(bed.on(f"k{number}"), number)
    bed.cut()
    bed.at(START + TTL // 2)
    for number in range(100):
        what.write(bed.on(f"young{number}"), number)
    bed.cut()
    if not warm:
        bed = bed.restart()
    bed.at(START + TTL)
    swept = 0
    while bed.state.sweep(bed.now, 50):
        swept += 1
        assert swept < 20
    bed.at(START + TTL + TTL // 10)
    while bed.state.sweep(bed.now, 50):
        swept += 1
        assert swept < 40
    bed.cut()
    left = {f"young{number}" for number in range(100)}
    assert set(bed.state.stored_keys()) == left
    assert len(bed.state._rows) <= 100
    assert len(bed.living_rows()) == 100
    assert set(bed.restart().state.stored_keys()) == left


@pytest.mark.parametrize(("kind", "store"), KIND_AND_STORE)
def test_a_sweep_is_spread_over_a_tenth_of_the_time_to_live(kind: str, store: str, stores: StoreMaker) -> None:
    what = KINDS[kind]
    bed = Bed(lambda: what.declare(ttl()), stores(store))
    for number in range(1000):
        what.write(bed.on(f"k{number}"), number)
    bed.cut()
    sizes = []
    for step in range(30):
        bed.at(START + TTL + step * TTL // 200)
        bed.state.sweep(bed.now, 100_000)
        sizes.append(len(bed.cut()))
    assert max(sizes) <= 120
    assert sum(sizes) == 1000


@pytest.mark.parametrize(("kind", "store"), KIND_AND_STORE)
def test_incremental_cleanup_removes_some_keys_with_each_access(kind: str, store: str, stores: StoreMaker) -> None:
    what = KINDS[kind]
    bed = Bed(lambda: what.declare(ttl(cleanup=Ttl.Cleanup.incremental(5))), stores(store))
    for number in range(100):
        what.write(bed.on(f"k{number}"), number)
    bed.cut()
    bed = bed.restart().at(START + TTL)
    assert not bed.state.sweep(bed.now, 1000)
    for number in range(25):
        what.write(bed.on(f"new{number}"), number)
    bed.cut()
    assert len(bed.living_rows()) <= 25 + 5
    assert all(f"new{number}" in set(bed.state.stored_keys()) for number in range(25))


@pytest.mark.parametrize(("kind", "store"), KIND_AND_STORE)
def test_full_snapshot_cleanup_leaves_expired_rows_out_of_a_snapshot_only(
    kind: str, store: str, stores: StoreMaker
) -> None:
    what = KINDS[kind]
    bed = Bed(lambda: what.declare(ttl(cleanup=Ttl.Cleanup.FULL_SNAPSHOT)), stores(store))
    what.write(bed.on("old"), 1)
    bed.at(START + TTL)
    what.write(bed.on("new"), 2)
    bed.cut()
    assert not bed.state.sweep(bed.now, 1000)
    assert len(bed.living_rows()) == 2
    assert [key for key, _ in bed.state.stored_rows() if b"old" in key] == []
    assert list(bed.state.stored_keys()) == ["new"]


@pytest.mark.parametrize(("kind", "store"), KIND_AND_STORE)
def test_a_time_to_live_can_be_added_changed_and_removed(kind: str, store: str, stores: StoreMaker) -> None:
    what = KINDS[kind]
    bed = Bed(lambda: what.declare(None), stores(store))
    what.write(bed.on("k"), 7)
    what.write(bed.on("unread"), 7)
    bed.cut()
    # Added: what is there begins to live when it is first seen ...
    later = START + 100 * TTL
    bed.now = later
    bed = bed.restart(lambda: what.declare(ttl())).at(later)
    assert what.read(bed.on("k")) == what.one(7)
    while bed.state.sweep(bed.now, 10):
        pass
    bed.at(later + TTL // 10)
    while bed.state.sweep(bed.now, 10):
        pass
    bed.cut()
    # ... and that is known after a restart.
    bed = bed.restart().at(later + TTL - 1)
    assert what.read(bed.on("k")) == what.one(7)
    bed = bed.restart().at(later + TTL)
    assert what.read(bed.on("k")) is None
    # Changed: the new duration counts from the same stamps.
    bed = bed.restart(lambda: what.declare(Ttl(timedelta(milliseconds=3 * TTL))))
    bed.at(later + 3 * TTL - 1)
    assert what.read(bed.on("k")) == what.one(7)
    # Removed: what was not cleaned up yet is there again, for ever.
    bed = bed.restart(lambda: what.declare(None)).at(later + 1000 * TTL)
    assert what.read(bed.on("k")) == what.one(7)
    assert what.read(bed.on("unread")) == what.one(7)
    what.write(bed.on("k"), 8)
    bed.cut()
    assert (what.read(bed.restart().on("k")) or 0) != what.one(7)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("time", [PROCESSING, EVENT])
def test_list_elements_and_map_entries_expire_one_by_one(time: Ttl.Time, store: str, stores: StoreMaker) -> None:
    rng = random.Random(5)
    made = stores(store)
    kinds: list[tuple[Callable[[], Any], Callable[[Any, int], Any], Callable[[Any], Any]]] = [
        (lambda: ListState(int, ttl=ttl(time=time)), lambda s, n: s.add(n), lambda s: list(s.get())),
        (
            lambda: MapState(int, int, ttl=ttl(time=time)),
            lambda s, n: s.put(n, n),
            lambda s: [value for _, value in sorted(s.entries())],
        ),
    ]
    for declare, write, read in kinds:
        bed = Bed(declare, made.another())
        model: list[tuple[int, int]] = []
        now = START
        for number in range(200 if store == "memory" else 80):
            now += rng.randrange(1200) if number % 50 < 45 else 4 * TTL
            bed.at(now)
            for _ in range(rng.choice((0, 1, 2, 20))):
                late = now - rng.choice((0, 0, 3000)) if time is EVENT else now
                # In event time the stamp is the record's, which the watermark may be behind of.
                bed.context.watermark_ms = late
                bed.context.timestamp_ms = now
                value = len(model)
                write(bed.on("k"), value)
                model.append((now, value))
            bed.at(now)
            assert read(bed.on("k")) == [value for stamp, value in model if stamp + TTL > now]
            if rng.random() < 0.5:
                bed.cut()
                bed = bed.restart().at(now)
                assert read(bed.on("k")) == [value for stamp, value in model if stamp + TTL > now]


@pytest.mark.parametrize("store", STORES)
def test_elements_that_expire_in_the_middle_of_a_long_list_stay_away(store: str, stores: StoreMaker) -> None:
    bed = Bed(lambda: ListState(int, ttl=ttl(time=EVENT)), stores(store))
    for number in range(60):
        # Every other record is far ahead of the watermark, so its element outlives its neighbours.
        bed.context.watermark_ms = START
        bed.context.timestamp_ms = START + (TTL if number % 2 else 0)
        bed.on("k").add(number)
        if number % 5 == 4:
            bed.cut()
    bed.context.watermark_ms = START + TTL
    odd = list(range(1, 60, 2))
    assert list(bed.on("k").get()) == odd
    bed.on("k").add(100)
    bed.cut()
    bed = bed.restart()
    assert list(bed.on("k").get()) == [*odd, 100]
    bed.context.watermark_ms = START + 2 * TTL
    assert list(bed.on("k").get()) == []
    bed.cut()
    assert bed.living_rows() == {}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("time", [PROCESSING, EVENT])
@pytest.mark.parametrize("restarting", [False, True])
def test_reading_renews_the_living_beside_the_dead_that_may_be_seen(
    restarting: bool, time: Ttl.Time, store: str, stores: StoreMaker
) -> None:
    def declare(visibility: Ttl.Visibility = VISIBLE) -> ListState[int]:
        return ListState(int, ttl=ttl(time=time, update=READ, visibility=visibility, cleanup=Ttl.Cleanup.FULL_SNAPSHOT))

    bed = Bed(declare, stores(store))
    bed.on("k").add(1)
    bed.at(START + 6_000).on("k").add(2)
    for at in range(
        12_000, 60_000, 6_000
    ):  # the first is dead from 10,000 on, the second is read in time again and again
        bed.at(START + at)
        assert list(bed.on("k").get()) == [1, 2]
        bed.cut()
        if restarting:
            bed = bed.restart()
    bed.on("k").add(3)
    bed.cut()
    bed = bed.restart(lambda: declare(NEVER)).at(START + 54_000 + TTL - 1)
    assert bed.state.look("k") == [2, 3]
    assert bed.at(START + 54_000 + TTL).state.look("k") is None


@pytest.mark.parametrize("store", STORES)
def test_keys_that_come_and_go_leave_memory_and_changelog_flat(store: str, stores: StoreMaker) -> None:
    bed = Bed(lambda: ValueState(int, ttl=ttl()), stores(store))
    sizes, rows = [], []
    for batch in range(600):
        bed.at(START + batch * 100)
        for number in range(10):
            bed.on(f"u{batch}-{number}").update(number)
        bed.state.sweep(bed.now, 1000)
        bed.cut()
        if batch % 20 == 19:
            bed.compact()
            sizes.append(len(list(bed.state.stored_keys())))
            rows.append(len(bed.living_rows()))
    # 100 batches live at a time, and a sweep is at most a tenth late.
    assert max(sizes[8:]) <= 1000
    assert max(rows[8:]) <= 1150
    assert len(bed.state._rows) <= 1150


def test_a_ttl_says_what_is_wrong_with_it() -> None:
    with pytest.raises(StateError, match="millisecond at least"):
        Ttl(timedelta(0))
    with pytest.raises(StateError, match="one key per access"):
        Ttl.Cleanup.incremental(0)
