"""Sources on Kafka that others write to in transactions."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiokafka
import pytest

from app.transport.brokers import connect
from tables.log import TopicPartition
from tests.integration.test_fraud_job import HIGH, Log, tx
from tests.support.waiting import until
from tests.support.worker import Worker


def _one_transaction(url: str, value: bytes, *, abort: bool) -> None:
    async def go() -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=url.removeprefix("kafka://"), transactional_id="somebody else"
        )
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait("user-transactions", value, key=b"user1")
            await (producer.abort_transaction() if abort else producer.commit_transaction())
        finally:
            await producer.stop()

    asyncio.run(go())


def _lag(worker: Worker) -> Any:
    operators = worker.get("/v1/operators")["operators"]
    return next(operator["lag"] for operator in operators if operator["uid"] == "fraud")


@pytest.mark.parametrize("unknown_client", [False, True], ids=["whole fetches", "public interface"])
def test_a_worker_does_not_stand_still_before_records_that_are_never_delivered(
    unknown_client: bool, tmp_path: Path, kafka_url: str
) -> None:
    hidden = "internals.UNSUPPORTED = 'aiokafka is another one'; " if unknown_client else ""
    program = f"import sys; from app.transport.kafka import internals; {hidden}" + (
        "from faust.cli.faust import cli; sys.argv = ['faust', '-A', 'app', 'worker', '-l', 'info']; cli()"
    )
    log = Log(kafka_url)
    log.rules(HIGH)
    with Worker(tmp_path, broker=kafka_url, command=[sys.executable, "-c", program], FAMULUS_JOBS="fraud") as worker:
        worker.wait_ready(60)
        _one_transaction(kafka_url, json.dumps(tx(1)).encode(), abort=False)
        until(log.alerts, within=20, what="the alert of the committed transaction")
        for _ in range(2):
            _one_transaction(kafka_url, json.dumps(tx(2)).encode(), abort=True)
        until(lambda: _end(log) >= 6, within=60, what="the aborted records are there")
        until(lambda: _lag(worker) == 0, within=60, what="nothing is left to do")
        log.transactions(tx(3))
        until(lambda: len(log.alerts()) == 2, within=20, what="the next alert")
    assert log.fired() == {("HIGH_VALUE", "t1"), ("HIGH_VALUE", "t3")}


def _end(log: Log) -> int:
    async def go() -> int:
        async with connect(log.broker) as client:
            reader = client.reader()
            await reader.start()
            try:
                tps = [TopicPartition("user-transactions", n) for n in range(4)]
                return sum((await reader.end_offsets(tps)).values())
            finally:
                await reader.stop()

    return asyncio.run(go())
