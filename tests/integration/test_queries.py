"""State queries in real workers: any worker answers for any key."""

from __future__ import annotations

from pathlib import Path

from tests.integration.test_fraud_job import HIGH, Log, tx
from tests.support.waiting import until
from tests.support.worker import Worker


def test_a_spare_answers_for_the_keys_of_the_active_worker(tmp_path: Path) -> None:
    active = Worker(tmp_path)
    log = Log(active.broker)
    log.rules(HIGH)
    log.transactions(*(tx(n, user=f"user{n}") for n in range(30)))
    with active:
        active.wait_ready()
        with Worker(tmp_path, broker=active.broker) as spare:
            found = until(
                lambda: spare.get("/v1/state/fraud/history/user7"), within=20, what="the spare asks the active worker"
            )
            assert found["value"][0]["amount"] == 20_000.0
            page = until(
                lambda: (
                    (listed := spare.get("/v1/state/fraud/history?prefix=user1&limit=5")) and listed["items"] and listed
                ),
                within=10,
                what="the spare lists the active worker's keys",
            )
            assert [item["key"] for item in page["items"]] == ["user1", "user10", "user11", "user12", "user13"]
            assert page["partial"] is False
            after = spare.get(f"/v1/state/fraud/history?prefix=user1&limit=50&cursor={page['cursor']}")
            assert [item["key"] for item in after["items"]] == [f"user1{n}" for n in range(4, 10)]


def test_the_answer_names_a_source_offset_that_contains_the_record(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    log = Log(worker.broker)
    log.transactions(*(tx(n, user="user1") for n in range(3)))
    with worker:
        worker.wait_ready()
        found = until(lambda: worker.get("/v1/state/fraud/history/user1"), within=10, what="the key is there")
        assert found["source_offset"] == 3
        assert len(found["value"]) == 3
