"""A value of another type than a state holds is refused where it is given, not where it is read back."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest

from agents.operator import Context, KeyedProcessFunction, OperatorSpec, keyed_source
from agents.testing import JobHarness, OperatorHarness
from models.errors import BadRecord
from tables import ListState, MapState, ReducingState, Ttl, ValueState
from tables.fit import fit_of

TTL = Ttl(timedelta(hours=1))


class Point(msgspec.Struct):
    x: int


@dataclass
class Plain:
    x: int


class Level(enum.Enum):
    LOW = 1


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (int, 1),
        (float, 1.5),
        (float, 1),
        (str, "a"),
        (bool, True),
        (bytes, b"a"),
        (bytes, bytearray(b"a")),
        (list[int], [1]),
        (list[int], (1,)),
        (set[str], {"a"}),
        (dict[str, int], {"a": 1}),
        (Point, Point(1)),
        (Plain, Plain(1)),
        (Level, Level.LOW),
        (Pair, Pair(1, 2)),
        (int | str, "a"),
        (int | None, None),
        (Annotated[int, msgspec.Meta(gt=0)], 1),
        (Any, object()),
    ],
)
def test_what_is_read_back_as_the_type_fits(of: Any, value: object) -> None:
    fit_of(of).check(value, "state")


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (int, "1"),
        (int, 1.0),
        (int, True),
        (int, None),
        (float, "1.0"),
        (float, True),
        (str, b"a"),
        (str, 1),
        (bool, 1),
        (bytes, "a"),
        (list[int], "abc"),
        (dict[str, int], [("a", 1)]),
        (Point, {"x": 1}),
        (Point, Plain(1)),
        (Level, 1),
        (int | str, 1.5),
        (int | None, "a"),
    ],
)
def test_what_is_not_does_not_and_is_told_with_the_name_of_the_state(of: Any, value: object) -> None:
    with pytest.raises(BadRecord, match="state 'count' holds "):
        fit_of(of).check(value, "count")


class Keeps(KeyedProcessFunction[Any, Any]):
    """Does with its states what the record says."""

    value = ValueState(int)
    lasting = ValueState(int, ttl=TTL)
    items = ListState(int)
    stamped = ListState(int, ttl=TTL)
    recent = ListState(int, keep_for=timedelta(hours=1))
    entries = MapState(str, int)
    aging = MapState(str, int, ttl=TTL)
    largest = ReducingState(int, max)

    def process_element(self, event: Any, ctx: Context) -> None:
        event[1](self)


WRONG = {
    "value": lambda f: f.value.update("text"),
    "value with ttl": lambda f: f.lasting.update("text"),
    "list": lambda f: f.items.add(None),
    "list, several": lambda f: f.items.add_all([1, "text"]),
    "list, replaced": lambda f: f.items.update([1, "text"]),
    "list with ttl": lambda f: f.stamped.add("text"),
    "list by time": lambda f: f.recent.add("text"),
    "map's value": lambda f: f.entries.put("a", None),
    "map's key": lambda f: f.entries.put(None, 1),
    "map with ttl, value": lambda f: f.aging.put("a", "text"),
    "map with ttl, key": lambda f: f.aging.put(1, 1),
    "reducing": lambda f: f.largest.add("text"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_every_kind_of_state_refuses_it_and_goes_on(wrong: Any) -> None:
    h = OperatorHarness(Keeps(), key=lambda e: e[0], timestamp=lambda e: 1_700_000_000_000)
    with pytest.raises(BadRecord, match="holds"):
        h.process(("ann", wrong))
    assert all(h.state(state, "ann") is None for state in ("items", "stamped", "recent"))  # nor half of several
    right = [
        lambda f: f.value.update(1),
        lambda f: f.lasting.update(2),
        lambda f: f.items.add(3),
        lambda f: f.stamped.add(4),
        lambda f: f.recent.add(5),
        lambda f: f.entries.put("a", 6),
        lambda f: f.aging.put("a", 7),
        lambda f: f.largest.add(8),
    ]
    for step in right:
        h.process(("bob", step))
    again = OperatorHarness.restore(Keeps(), h.snapshot(), key=lambda e: e[0], timestamp=lambda e: 1_700_000_000_000)
    shown = {name: again.state(name, "bob") for name in ("value", "lasting", "items", "stamped", "recent", "largest")}
    assert shown == {"value": 1, "lasting": 2, "items": [3], "stamped": [4], "recent": [5], "largest": 8}
    assert (again.state("entries", "bob"), again.state("aging", "bob")) == ({"a": 6}, {"a": 7})


def test_none_is_still_no_value() -> None:
    h = OperatorHarness(Keeps(), key=lambda e: e[0], timestamp=lambda e: 1_700_000_000_000)
    for state in ("value", "lasting"):
        h.process(("ann", lambda f, state=state: getattr(f, state).update(1)))
        h.process(("ann", lambda f, state=state: getattr(f, state).update(None)))
        assert h.state(state, "ann") is None


class Numbered(msgspec.Struct):
    user: str
    timestamp: int
    number: Any


class Counted(KeyedProcessFunction[Numbered, None]):
    last = ValueState(int)

    def process_element(self, event: Numbered, ctx: Context) -> None:
        self.last.update(event.number)


def test_a_worker_makes_a_dead_letter_of_the_record_and_takes_the_next() -> None:
    spec = OperatorSpec(
        uid="counted",
        name="Counted",
        job="counted",
        function=Counted,
        source=keyed_source("events", msgspec.json.Decoder(Numbered).decode, "user"),
    )
    with JobHarness(spec) as job:
        for number in (1, "two", 3):
            job.send("events", "ann", {"user": "ann", "timestamp": 1, "number": number})
        (letter,) = job.records("events.dlq")
        assert b"state 'last' holds int, and 'two' is str" in letter.headers["error-message"]
        assert job.state("counted", "last", "ann") == 3
