"""Dead letters on Kafka, whose brokers bound the size of a record."""

from __future__ import annotations

import json
from pathlib import Path

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
