"""The fraud job from topic to topic, in a real worker on the embedded log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.transport.brokers import connect
from app.transport.client import NewRecord
from models.topics import CATALOGUE, dlq_topic
from tables.log import TopicPartition
from tests.support.waiting import until
from tests.support.worker import Worker

HIGH = {
    "rule_id": "HIGH_VALUE",
    "description": "Transaction amount > $10,000",
    "active": True,
    "risk_level": "HIGH",
    "when": "amount > 10000.0",
}
VELOCITY = {
    "rule_id": "VELOCITY",
    "description": "More than 2 transactions in 10 minutes",
    "active": True,
    "risk_level": "MEDIUM",
    "when": "count(duration('10m')) > 2",
}
NOW = int(time.time() * 1000)


def tx(number: int, user: str = "user1", amount: float = 20_000.0, timestamp: int = NOW, **more: Any) -> dict[str, Any]:
    return {"transaction_id": f"t{number}", "user_id": user, "amount": amount, "timestamp": timestamp, **more}


class Log:
    """The worker's log, from outside."""

    def __init__(self, broker: str) -> None:
        self.broker = broker

    def append(self, topic: str, records: Sequence[tuple[bytes | None, bytes | None]]) -> None:
        async def go() -> None:
            async with connect(self.broker) as client:
                spec = CATALOGUE[topic]
                await client.create_topic(topic, spec.partitions, spec.config)
                await client.append(topic, [NewRecord(key, value) for key, value in records])

        asyncio.run(go())

    def rules(self, *rules: dict[str, Any]) -> None:
        self.append("fraud-rules", [(rule["rule_id"].encode(), json.dumps(rule).encode()) for rule in rules])

    def transactions(self, *sent: dict[str, Any]) -> None:
        self.append("user-transactions", [(one["user_id"].encode(), json.dumps(one).encode()) for one in sent])

    def read(self, topic: str) -> list[Any]:
        async def go() -> list[Any]:
            async with connect(self.broker) as client:
                if topic not in await client.topics():
                    return []
                reader = client.reader()
                await reader.start()
                try:
                    tps = [TopicPartition(topic, n) for n in range(await reader.partitions(topic))]
                    left = {tp: end for tp, end in (await reader.end_offsets(tps)).items() if end}
                    reader.assign(dict.fromkeys(left, 0))
                    found = []
                    while left:
                        for part in await reader.poll(1.0):
                            found += list(part.records)
                            if part.tp in left and part.next_offset >= left[part.tp]:
                                del left[part.tp]
                    return found
                finally:
                    await reader.stop()

        return asyncio.run(go())

    def alerts(self) -> list[dict[str, Any]]:
        return [json.loads(record.value) for record in self.read("fraud-alerts")]

    def fired(self) -> set[tuple[str, str]]:
        return {(alert["rule_id"], alert["transaction_id"]) for alert in self.alerts()}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path) as running:
        yield running


@pytest.fixture
def log(worker: Worker) -> Log:
    return Log(worker.broker)


def test_an_alert_says_which_rule_fired_for_what_and_why(worker: Worker, log: Log) -> None:
    log.rules(HIGH)
    worker.wait_ready()
    until(lambda: worker.get("/v1/rules/HIGH_VALUE"), within=60, what="the rule is known")
    log.transactions(tx(1, country="DE"))
    (alert,) = until(log.alerts, within=60, what="an alert")
    assert alert["rule_id"] == "HIGH_VALUE"
    assert alert["rule_version"] == 1
    assert alert["risk_level"] == "HIGH"
    assert alert["message"] == "Rule triggered: Transaction amount > $10,000"
    assert alert["source"]["topic"] == "user-transactions"
    assert alert["explanation"]["condition"] == "amount > 10000.0"
    assert alert["explanation"]["values"] == {"amount": 20_000.0}


def test_no_transaction_is_judged_before_the_rules_that_were_there_at_start(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    log = Log(worker.broker)
    log.transactions(*(tx(n, user=f"u{n}") for n in range(50)))
    log.rules(HIGH)
    with worker:
        worker.wait_ready()
        until(lambda: len(log.alerts()) == 50, within=20, what="all fifty alerts")


def test_a_rule_change_takes_effect_without_a_restart(worker: Worker, log: Log) -> None:
    worker.wait_ready()
    log.transactions(tx(1))
    until(lambda: worker.get("/v1/state/fraud/history/user1"), within=60, what="the transaction is processed")
    log.rules(HIGH)
    number = 1

    def fires() -> bool:
        nonlocal number
        number += 1
        log.transactions(tx(number))
        return bool(log.alerts())

    until(fires, within=60, what="the new rule fires", every=0.2)
    assert ("HIGH_VALUE", "t1") not in log.fired()


def test_a_restart_goes_on_where_it_stopped_and_alerts_nothing_twice(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    log = Log(worker.broker)
    log.rules(HIGH, VELOCITY)
    log.transactions(*(tx(n, timestamp=NOW - 1000 + n) for n in range(2)))
    with worker:
        until(lambda: len(log.alerts()) == 2, within=30, what="two alerts")
        assert worker.stop() == 0
        log.transactions(tx(2))
        worker.start()
        until(lambda: ("VELOCITY", "t2") in log.fired(), within=30, what="the third transaction is the third")
        assert len(log.alerts()) == 4


BAD = {
    "not JSON": b"hello",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[1]",
    "no user": b'{"transaction_id":"b","amount":1.0,"timestamp":1}',
    "a text as amount": b'{"transaction_id":"b","user_id":"user1","amount":"1","timestamp":1}',
    "NaN": b'{"transaction_id":"b","user_id":"user1","amount":NaN,"timestamp":1}',
    "Infinity": b'{"transaction_id":"b","user_id":"user1","amount":Infinity,"timestamp":1}',
    "a number beyond doubles": b'{"transaction_id":"b","user_id":"user1","amount":1e999,"timestamp":1}',
    "nested 20,000 deep": b'{"transaction_id":"b","user_id":"user1","amount":1,"timestamp":1,"attributes":'
    + b"[" * 20_000,
    "deep in an unknown field": b'{"transaction_id":"b","user_id":"user1","amount":1,"timestamp":1,"x":'
    + b"[" * 20_000
    + b"]" * 20_000
    + b"}",
    "the year 2099": json.dumps(tx(99, timestamp=4_070_908_800_000)).encode(),
    "no value": None,
    "an empty value": b"",
}


def test_bad_records_go_to_the_dead_letters_with_a_reason_and_their_neighbours_are_processed(
    worker: Worker, log: Log
) -> None:
    log.rules(HIGH)
    worker.wait_ready()
    until(lambda: worker.get("/v1/rules/HIGH_VALUE"), within=60, what="the rule is known")
    good = 0
    for bad in BAD.values():
        good += 1
        log.append(
            "user-transactions",
            [
                (b"user1", json.dumps(tx(good)).encode()),
                (b"user1", bad),
                (b"user1", json.dumps(tx(good + 1000)).encode()),
            ],
        )
    log.append("user-transactions", [(None, json.dumps(tx(500)).encode()), (b"other", json.dumps(tx(501)).encode())])
    until(lambda: len(log.alerts()) >= 2 * good, within=20, what="every good neighbour raised its alert")
    until(
        lambda: len(log.read(dlq_topic("user-transactions"))) >= len(BAD) + 2,
        within=20,
        what="every bad record is a dead letter",
    )
    letters = log.read(dlq_topic("user-transactions"))
    assert len(log.alerts()) == 2 * good
    assert len(letters) == len(BAD) + 2
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["origin-topic"] == b"user-transactions"
        assert headers["error-class"] == b"BadRecord"
        assert headers["error-message"]
    assert {letter.value for letter in letters} >= set(BAD.values())


def test_a_refused_rule_goes_to_its_dead_letters_once_and_the_running_rules_stay(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    log = Log(worker.broker)
    log.rules(HIGH, {**HIGH, "when": "amount >"}, {**VELOCITY, "surprise": 1})
    with worker:
        worker.wait_ready()
        until(lambda: len(log.read(dlq_topic("fraud-rules"))) == 2, within=60, what="two dead letters")
        letters = log.read(dlq_topic("fraud-rules"))
        assert all(dict(letter.headers)["error-class"] == b"RuleRefused" for letter in letters)
        assert [rule["rule_id"] for rule in worker.get("/v1/rules")["rules"]] == ["HIGH_VALUE"]
        worker.stop()
        worker.start()
        worker.wait_ready()
        log.transactions(tx(1))
        until(log.alerts, within=60, what="the first version still runs")
        assert len(log.read(dlq_topic("fraud-rules"))) == 2


def test_sigterm_ends_the_worker_cleanly_within_five_seconds(worker: Worker, log: Log) -> None:
    log.rules(HIGH)
    worker.wait_ready()
    log.transactions(*(tx(n, user=f"u{n % 7}") for n in range(2000)))
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < 5
