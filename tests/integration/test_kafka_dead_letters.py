"""Dead letters on Kafka, whose brokers bound the size of a record."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiokafka

from tests.integration.test_fraud_job import HIGH, Log, tx
from tests.support.waiting import until
from tests.support.worker import Worker


def test_a_bad_record_of_the_largest_size_fits_into_the_dead_letters_with_its_reason(
    tmp_path: Path, kafka_url: str
) -> None:
    log = Log(kafka_url)
    log.rules(HIGH)
    with Worker(tmp_path, broker=kafka_url) as worker:
        worker.wait_ready(60)
        log.append("user-transactions", [(b"user1", b"x" * 1_047_000), (b"user1", json.dumps(tx(1)).encode())])
        until(lambda: len(log.read("user-transactions.dlq")) == 1, within=30, what="the dead letter")
        until(lambda: len(log.alerts()) == 1, within=30, what="the alert of its neighbour")


def test_a_bad_record_that_only_compression_made_fit_is_a_dead_letter_and_does_not_stop_the_worker(
    tmp_path: Path, kafka_url: str
) -> None:
    async def produce() -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=kafka_url.removeprefix("kafka://"), compression_type="gzip", max_request_size=20_000_000
        )
        await producer.start()
        try:
            await producer.send_and_wait("user-transactions", b"x" * 10_000_000, key=b"user1")
        finally:
            await producer.stop()

    log = Log(kafka_url)
    log.rules(HIGH)
    with Worker(tmp_path, broker=kafka_url, FAMULUS_JOBS="fraud") as worker:
        worker.wait_ready(60)
        asyncio.run(produce())
        log.append("user-transactions", [(b"user1", json.dumps(tx(1)).encode())])
        until(lambda: len(log.alerts()) == 1, within=30, what="the alert of its neighbour")
        (dead,) = log.read("user-transactions.dlq")
        assert dead.value == b"x" * 10_000_000


def test_an_alert_that_is_larger_than_its_transaction_is_written(tmp_path: Path, kafka_url: str) -> None:
    rule = {**HIGH, "description": "d" * 1000, "when": "size(attributes) > 1 " + "|| amount > 1.0 " * 200}
    attributes = {f"k{n}": "\N{GRINNING FACE}" * 4096 for n in range(63)} | {"last": "\N{GRINNING FACE}" * 3850}
    value = json.dumps(tx(1, attributes=attributes), ensure_ascii=False).encode()
    log = Log(kafka_url)
    log.rules(rule)
    with Worker(tmp_path, broker=kafka_url, FAMULUS_JOBS="fraud") as worker:
        worker.wait_ready(60)
        log.append("user-transactions", [(b"user1", value)])
        (alert,) = until(log.alerts, within=30, what="the alert")
        assert alert["explanation"]["values"]["attributes"] == attributes
