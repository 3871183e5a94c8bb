"""Batches that are packed in one go are, byte by byte, those of aiokafka's own builder."""

from __future__ import annotations

import os
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from app.transport.kafka import produce

try:
    from app.transport.kafka import _packing
except ImportError:
    _packing = None  # type: ignore[assignment]

TIME = 1_700_000_000_000
MOST = 2_000


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    if _packing is None:
        if os.environ.get("CI") == "true":
            pytest.fail("app/transport/kafka/_packing.pyx is not compiled: install where there is a C compiler")
        pytest.skip("app/transport/kafka/_packing.pyx is not compiled here")


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


content = st.none() | st.binary(max_size=300) | st.integers(0, 20_000).map(bytes)
headers = st.none() | st.lists(st.tuples(st.text(max_size=70), st.binary(max_size=100)), max_size=3)


@given(
    st.lists(st.tuples(content, content) | st.tuples(content, content, headers), min_size=1, max_size=150),
    st.booleans(),
)
def test_they_are_those_of_the_builder(records: list[Any], transactional: bool) -> None:
    entries = [(key, value, rest[0] if rest else None, TIME) for key, value, *rest in records]
    ours = built(_packing.pack(records, TIME, transactional, MOST))
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
    (batch,) = _packing.pack([(b"key", b"value")], TIME, True, MOST)
    batch._set_producer_state(1, 2, 3)
    assert bytes(batch._build()) == bytes(batch._build())
    assert batch.closed()
    assert batch.size() == len(batch._build())


def test_what_is_no_bytes_is_refused_and_nothing_of_it_written() -> None:
    with pytest.raises(TypeError, match="bytes, not str"):
        _packing.pack([(b"key", "text")], TIME, True, MOST)


def test_nothing_makes_no_batch() -> None:
    assert _packing.pack([], TIME, True, MOST) == []
