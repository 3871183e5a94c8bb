"""Batches that are made and read in one go: byte by byte those of aiokafka's own builder, and what its own reader makes of them."""

from __future__ import annotations

import os
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from app.transport.kafka import produce

try:
    from app.transport.kafka import _batches
except ImportError:
    _batches = None  # type: ignore[assignment]

TIME = 1_700_000_000_000
MOST = 2_000


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    if _batches is None:
        if os.environ.get("CI") == "true":
            pytest.fail("app/transport/kafka/_batches.pyx is not compiled: install where there is a C compiler")
        pytest.skip("app/transport/kafka/_batches.pyx is not compiled here")


class Producer:
    """As much of aiokafka's as filling batches takes."""

    def __init__(self, transactional: bool) -> None:
        self.transactional = transactional

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(MOST, 0, is_transactional=self.transactional)


def built(batches: list[Any]) -> list[tuple[int, bytes]]:
    for number, batch in enumerate(batches):
        batch._set_producer_state(7_000_000_000, 3 + number, 99)
    return [(batch.record_count(), bytes(batch._build())) for batch in batches]


@given(st.binary(max_size=300), st.integers(0, 20), st.integers(0, 20))
def test_the_checksum_is_the_one_that_aiokafka_has(data: bytes, begin: int, less: int) -> None:
    end = max(begin, len(data) - less)
    expected = calc_crc32c(data[begin:end])
    assert _batches.checksum(data, begin, end) == _batches.checksum(bytearray(data), begin, end) == expected
    assert (
        _batches.checksum(b"123456789", 0, 9) == 0xE3069283
    )  # RFC 3720's polynomial, the check value of its catalogue


def test_a_batch_that_was_changed_on_its_way_is_not_whole() -> None:
    (batch,) = _batches.pack([(b"k", b"v" * 50)], TIME, False, MOST)
    raw = bytes(batch._build())
    assert _batches.is_whole(raw, 0, len(raw)) is True
    assert _batches.is_whole(b"xyz" + raw, 3, 3 + len(raw)) is True
    for place in (21, 40, len(raw) - 1):
        assert _batches.is_whole(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :], 0, len(raw)) is False
    assert _batches.is_whole(raw[:16] + b"\1" + raw[17:], 0, len(raw)) is None
    assert _batches.is_whole(raw, 0, len(raw) + 1) is None


content = st.none() | st.binary(max_size=300) | st.integers(0, 20_000).map(bytes)
headers = st.none() | st.lists(st.tuples(st.text(max_size=70), st.binary(max_size=100)), max_size=3)


@given(
    st.lists(st.tuples(content, content) | st.tuples(content, content, headers), min_size=1, max_size=150),
    st.booleans(),
)
def test_they_are_those_of_the_builder(records: list[Any], transactional: bool) -> None:
    entries = [(key, value, rest[0] if rest else None, TIME) for key, value, *rest in records]
    ours = built(_batches.pack(records, TIME, transactional, MOST))
    held = [record for _, data in ours for record in _read(data)]
    assert held == [(key, value, [tuple(one) for one in given or []]) for key, value, given, _ in entries]
    theirs = built(produce.fill(Producer(transactional), entries))
    if len(ours) == len(theirs) == 1:
        assert ours == theirs
    # aiokafka counts a few bytes more for a record than it has, so its batches may be cut a little earlier.
    assert len(ours) <= len(theirs)
    assert all(len(data) <= MOST or count == 1 for count, data in ours)


def _read(data: bytes) -> list[Any]:
    records = MemoryRecords(data)
    batch = records.next_batch()
    assert batch is not None
    assert batch.validate_crc()
    assert not records.has_next()
    assert (batch.producer_id, batch.base_sequence) == (7_000_000_000, 99)
    found = list(batch)
    assert [record.offset for record in found] == list(range(len(found)))
    assert {record.timestamp for record in found} == {TIME}
    return [(record.key, record.value, [tuple(one) for one in record.headers]) for record in found]


def test_a_batch_that_is_sent_again_is_the_same() -> None:
    (batch,) = _batches.pack([(b"key", b"value")], TIME, True, MOST)
    batch._set_producer_state(1, 2, 3)
    assert bytes(batch._build()) == bytes(batch._build())
    assert batch.closed()
    assert batch.size() == len(batch._build())


def test_what_is_no_bytes_is_refused_and_nothing_of_it_written() -> None:
    with pytest.raises(TypeError, match="bytes, not str"):
        _batches.pack([(b"key", "text")], TIME, True, MOST)


def test_nothing_makes_no_batch() -> None:
    assert _batches.pack([], TIME, True, MOST) == []


entries = st.lists(
    st.tuples(content, content, headers, st.integers(-(1 << 40), 1 << 42)),
    min_size=1,
    max_size=60,
)


@given(entries, st.integers(0, 1 << 40), st.integers(0, 70))
def test_a_batch_is_read_as_by_aiokafka(given: list[Any], base: int, skipped: int) -> None:
    builder = BatchBuilder(1 << 20, 0, is_transactional=True)
    for key, value, named, at in given:
        assert builder.append(timestamp=at, key=key, value=value, headers=named or []) is not None
    raw = base.to_bytes(8, "big") + bytes(builder._build())[8:]
    found: list[Any] = []
    assert _batches.batch_end(b"before" + raw, 6) == 6 + len(raw)
    assert _batches.unpack(b"before" + raw, 6, 6 + len(raw), base + skipped, found)
    expected = list(MemoryRecords(raw).next_batch())
    assert [_shown(record) for record in found] == [
        _shown(record) for record in expected if record.offset >= base + skipped
    ]


def _shown(record: Any) -> Any:
    return record.offset, record.timestamp, record.key, record.value, [tuple(one) for one in record.headers or ()]


def test_a_compressed_batch_is_aiokafkas() -> None:
    builder = BatchBuilder(1 << 20, 1, is_transactional=False)
    builder.append(timestamp=TIME, key=b"k", value=bytes(1_000))
    raw = bytes(builder._build())
    found: list[Any] = []
    assert not _batches.unpack(raw, 0, len(raw), 0, found)
    assert found == []


@given(st.data())
def test_bytes_that_are_no_batch_are_refused_and_nothing_outside_of_them_is_read(data: st.DataObject) -> None:
    (batch,) = _batches.pack([(b"key", b"value", [("name", b"content")]), (b"k", None)] * 3, TIME, True, MOST)
    raw = bytearray(batch._build())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(17, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    found: list[Any] = []
    try:
        _batches.unpack(bytes(raw), 0, cut, 0, found)
    except CorruptRecordException:
        return
    assert all(len(record.key or b"") <= len(raw) and len(record.value or b"") <= len(raw) for record in found)
