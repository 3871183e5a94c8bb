"""The steps of a transaction that its writer takes itself, with a broker that answers what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import ProducerFenced, TopicAuthorizationFailedError

from app.transport.kafka.transactions import QuickProducer

OUT, LOG, IN = TopicPartition("out", 0), TopicPartition("log", 0), TopicPartition("in", 0)
#: Kafka's error codes
NOT_ALLOWED, FENCED, CONCURRENT = 29, 47, 51


class Broker:
    """Answers requests of a producer; ``codes`` has the error codes of the next answers to a kind of request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.codes: dict[str, list[int]] = {}

    async def send(self, node: int, request: Any, *, group: Any = None) -> Any:
        kind = type(request).__name__.removesuffix("Request")
        self.asked.append(kind)
        waiting = self.codes.get(kind)
        code = waiting.pop(0) if waiting else 0
        if kind == "AddPartitionsToTxn":
            return SimpleNamespace(errors=[("out", [(0, code)]), ("log", [(0, code)])])
        if kind == "TxnOffsetCommit":
            return SimpleNamespace(errors=[("in", [(0, code)])])
        return SimpleNamespace(error_code=code)


@pytest.fixture
async def broker() -> Broker:
    return Broker()


@pytest.fixture
async def producer(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiokafka.AIOKafkaProducer]:
    made = QuickProducer(transactional_id="id", retry_backoff_ms=1)
    monkeypatch.setattr(made.client, "send", broker.send)
    made._sender._coordinators.update({CoordinationType.TRANSACTION: 1, CoordinationType.GROUP: 1})
    made._txn_manager.set_pid_and_epoch(7, 0)
    yield made
    made._closed = True


async def transaction(producer: QuickProducer) -> None:
    await producer.begin_transaction()
    await producer.enlist([OUT, LOG], "group")
    await producer.send_offsets_to_transaction({IN: 5}, "group")
    await producer.commit_transaction()


async def test_offsets_are_added_before_anything_is_produced_and_committed_after(
    producer: QuickProducer, broker: Broker
) -> None:
    for _ in range(2):  # one transaction after the other
        broker.asked.clear()
        await producer.begin_transaction()
        await producer.enlist([OUT, LOG], "group")
        assert broker.asked == ["AddPartitionsToTxn", "AddOffsetsToTxn"]
        await producer.send_offsets_to_transaction({IN: 5}, "group")
        await producer.commit_transaction()
        assert broker.asked[2:] == ["TxnOffsetCommit", "EndTxn"]


async def test_without_a_group_no_offsets_are_added(producer: QuickProducer, broker: Broker) -> None:
    await producer.begin_transaction()
    await producer.enlist([OUT, LOG], None)
    await producer.commit_transaction()
    assert broker.asked == ["AddPartitionsToTxn", "EndTxn"]


async def test_what_the_broker_is_not_ready_for_is_asked_again(producer: QuickProducer, broker: Broker) -> None:
    broker.codes = {"AddPartitionsToTxn": [CONCURRENT], "AddOffsetsToTxn": [CONCURRENT], "EndTxn": [CONCURRENT]}
    await transaction(producer)
    assert broker.asked == [
        *("AddPartitionsToTxn", "AddPartitionsToTxn", "AddOffsetsToTxn", "AddOffsetsToTxn"),
        *("TxnOffsetCommit", "EndTxn", "EndTxn"),
    ]


@pytest.mark.parametrize("step", ["AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"])
async def test_a_producer_whose_place_was_taken_hears_it_at_every_step(
    step: str, producer: QuickProducer, broker: Broker
) -> None:
    broker.codes = {step: [FENCED]}
    with pytest.raises(ProducerFenced):
        await transaction(producer)
    assert broker.asked[-1] == step


async def test_a_topic_that_may_not_be_written_is_an_error_before_anything_is_produced(
    producer: QuickProducer, broker: Broker
) -> None:
    broker.codes = {"AddPartitionsToTxn": [NOT_ALLOWED]}
    await producer.begin_transaction()
    with pytest.raises(TopicAuthorizationFailedError):
        await producer.enlist([OUT, LOG], "group")
    assert broker.asked == ["AddPartitionsToTxn"]
