"""One contract for what comes before the function: the compiled reader and its plain twin do the same, record by record."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import pytest

from agents.operator import Source, keyed_source, reading
from agents.operator.process import Context
from models.errors import BadRecord
from models.history import HistoryEntry
from tables import TimeSeriesState, series
from tests.contract.state_kit import START, Bed, MemoryStores

try:
    from app.transport.kafka import _batches
except ImportError:
    _batches = None  # type: ignore[assignment]


class Event(msgspec.Struct):
    user: str
    at: int
    note: Any = None


class Other:
    """What another decoder makes, which is no struct."""

    def __init__(self, value: bytes) -> None:
        self.user, at = value.decode().split(":")
        self.at = int(at)


@dataclass
class Given:
    """A record."""

    key: bytes | None
    value: bytes | None
    offset: int = 0
    timestamp: int = 7
    headers: None = None


def as_they_are(records: list[Given]) -> list[Any]:
    return list(records)


def as_fetched(records: list[Given]) -> list[Any]:
    """The same as Kafka's reader hands them out."""
    if _batches is None:
        pytest.skip("app/transport/kafka/_batches.pyx is not compiled here")
    fetched: list[Any] = []
    (batch,) = _batches.pack([(record.key, record.value) for record in records], 7, False, 1 << 20)
    raw = bytes(batch._build())
    assert _batches.unpack(raw, 0, len(raw), 0, fetched)
    return fetched


COMPILED = reading.COMPILED
FAST = pytest.mark.parametrize("fast", [True, False])
RECORDS = pytest.mark.parametrize("hand", [as_they_are, as_fetched])
STRUCTS = keyed_source("events", msgspec.json.Decoder(Event).decode, "user", "at")
OTHERS = Source(
    topic="events", decode=Other, key=attrgetter("user"), timestamp=attrgetter("at"), key_name="user"
).checked()
COMPUTED = Source(
    topic="events", decode=msgspec.json.decode, key=lambda event: event["user"], timestamp=lambda event: event["at"]
).checked()
RAW = Source(topic="events")


def read(
    monkeypatch: pytest.MonkeyPatch,
    fast: bool,
    source: Source,
    records: list[Any],
    ahead: Any = (),
    found: list[Any] | None = None,
) -> list[tuple[int, str, Any, Any]]:
    """(offset, key, time, event's note or reason) in turn, appended to ``found``."""
    if fast and not COMPILED:
        if os.environ.get("CI") == "true":
            pytest.fail("agents/operator/_reading.pyx is not compiled: install where there is a C compiler")
        pytest.skip("agents/operator/_reading.pyx is not compiled here")
    monkeypatch.setattr(reading, "COMPILED", fast)
    context = Context("events")
    found = [] if found is None else found

    def refuse(record: Any, exc: Exception) -> None:
        found.append((record.offset, "refused", None, str(reading.reason(exc, record))))

    for event in reading.reader(source, context, refuse, ahead)(records):
        note = getattr(event, "note", None)
        found.append((context.record.offset, context.key, context.timestamp_ms, note))
    return found


def json(user: str, at: Any, note: Any = None) -> bytes:
    return msgspec.json.encode({"user": user, "at": at, "note": note})


@FAST
@RECORDS
@pytest.mark.parametrize("source", [STRUCTS, COMPUTED])
def test_events_come_in_turn_and_the_context_says_whose_they_are(
    monkeypatch: pytest.MonkeyPatch, fast: bool, hand: Callable[..., Any], source: Source
) -> None:
    users = ["a", "bb", "ü", "語", "😀" * 9, "k" * 300]
    records = [
        Given(users[n % 6].encode(), json(users[n % 6], START + n, n), offset=n)
        for n in range(50)  # more than are read ahead, and no multiple of it
    ]
    found = read(monkeypatch, fast, source, hand(records))
    assert [one[:3] for one in found] == [(n, users[n % 6], START + n) for n in range(50)]
    if source is STRUCTS:
        assert [note for *_, note in found] == list(range(50))


@FAST
def test_what_is_no_struct_is_asked_by_name(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    found = read(monkeypatch, fast, OTHERS, [Given(b"u", b"u:5"), Given(b"v", b"v:6", offset=1), Given(b"v", b"v", 2)])
    assert found[:2] == [(0, "u", 5, None), (1, "v", 6, None)]
    assert found[2][:2] == (2, "refused")


@FAST
@RECORDS
def test_a_record_that_cannot_be_read_is_refused_at_its_turn(
    monkeypatch: pytest.MonkeyPatch, fast: bool, hand: Callable[..., Any]
) -> None:
    records = [
        Given(b"u", json("u", 1), 0),
        Given(b"u", b"{", 1),
        Given(b"u", None, 2),
        Given(b"v", json("u", 2), 3),
        Given(None, json("u", 3), 4),
        Given(b"", json("", 4), 5),
        Given(b"u", json("u", "5"), 6),
        Given(b"u\xff", json("u", 5), 7),
        Given(b"u", json("u", 6), 8),
    ]
    found = read(monkeypatch, fast, STRUCTS, hand(records))
    assert [(offset, key) for offset, key, *_ in found] == [
        (0, "u"),
        *[(offset, "refused") for offset in range(1, 8)],
        (8, "u"),
    ]
    reasons = [reason for *_, reason in found[1:8]]
    assert reasons == [reason for *_, reason in read(monkeypatch, not fast, STRUCTS, hand(records))[1:8]]
    for said, reason in zip(
        (
            "not a record of this topic",
            "no value",
            "its user is 'u'",
            "has no key",
            "has no key",
            "Expected `int`",
            "'u�'",
        ),
        reasons,
        strict=True,
    ):
        assert said in reason


@FAST
@RECORDS
def test_without_decode_the_record_itself_comes_under_its_own_key_and_time(
    monkeypatch: pytest.MonkeyPatch, fast: bool, hand: Callable[..., Any]
) -> None:
    records = [Given(b"u", b"x", 0), Given(b"\xff", b"x", 1), Given(None, b"x", 2), Given("ü".encode(), None, 3)]
    found = read(monkeypatch, fast, RAW, hand(records))
    assert found[0] == (0, "u", 7, None)
    assert [key for _, key, *_ in found] == ["u", "refused", "refused", "ü"]


@FAST
def test_a_failure_that_says_nothing_about_the_record_is_raised_at_its_turn(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    def decode(value: bytes) -> Event:
        if value == b"2":
            raise OSError("the disk is gone")
        return Event("u", int(value))

    source = Source(topic="events", decode=decode, key=attrgetter("user"), timestamp=attrgetter("at"))
    found: list[Any] = []
    with pytest.raises(OSError, match="disk"):
        read(monkeypatch, fast, source, [Given(b"u", b"%d" % n, n) for n in range(4)], found=found)
    assert [offset for offset, *_ in found] == [0, 1]


@FAST
def test_an_error_of_a_class_of_ours_keeps_its_words(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    def decode(value: bytes) -> Event:
        raise BadRecord("not today")

    source = Source(topic="events", decode=decode, key=attrgetter("user"), timestamp=attrgetter("at"))
    assert read(monkeypatch, fast, source, [Given(b"u", b"x")]) == [(0, "refused", None, "not today")]


def test_states_are_told_the_keys_before_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    records = [Given(b"k%d" % n, json(f"k{n}", n), n) for n in range(40)]
    read(monkeypatch, True, STRUCTS, records, [told.extend])
    assert told == [f"k{n}" for n in range(40)]


def test_telling_a_state_what_comes_next_changes_nothing() -> None:
    if not series.COMPILED:
        pytest.skip("tables/_series.pyx is not compiled here")
    bed = Bed(lambda: TimeSeriesState(HistoryEntry, time="timestamp", keep_last=4), MemoryStores())
    chance = random.Random(3)
    expected: dict[str, list[int]] = {}
    for number in range(3_000):
        key = f"k{chance.randrange(1_500)}"
        state = bed.on(key)
        assert state.ahead is not None
        state.ahead([f"k{chance.randrange(3_000)}" for _ in range(chance.choice([0, 1, 16, 70]))])
        state.add(HistoryEntry(START + number, 1.0, f"m{number % 300}", "DE"))
        expected[key] = [*expected.get(key, []), START + number][-4:]
        if number % 500 == 0:
            state.clear()
            del expected[key]
    for key, times in expected.items():
        assert [one.timestamp for one in bed.on(key).get() or ()] == times
