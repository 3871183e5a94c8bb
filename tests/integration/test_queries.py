"""State queries in real workers: any worker answers for any key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
                within=60,
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

        def whole() -> Any:
            found = worker.get("/v1/state/fraud/history/user1")
            if found is not None:
                assert len(found["value"]) == found["source_offset"]
            return found if found is not None and found["source_offset"] == 3 else None

        until(whole, within=60, what="all three are there")


def test_two_workers_answer_for_each_others_keys(tmp_path: Path, kafka_url: str) -> None:
    first, second = (Worker(tmp_path / name, broker=kafka_url) for name in ("first", "second"))
    log = Log(kafka_url)
    log.rules(HIGH)
    log.transactions(*(tx(n, user=f"user{n}") for n in range(30)))
    with first, second:
        for worker in (first, second):
            worker.wait_ready(60)
        for worker in (first, second):
            _answers_for_all(worker)
        owned = [_owned(worker) for worker in (first, second)]
        assert owned[0] | owned[1] == {0, 1, 2, 3}
        assert not owned[0] & owned[1]


def _answers_for_all(worker: Worker) -> None:
    for number in range(30):
        path = f"/v1/state/fraud/history/user{number}"
        found = until(lambda path=path: worker.get(path), within=60, what=f"{path} is found")  # type: ignore[misc]
        assert found["value"][0]["amount"] == 20_000.0
    listed = until(lambda: whole_listing(worker), within=60, what="the listing is whole")
    assert len(listed["items"]) == 30


def whole_listing(worker: Worker) -> Any:
    """Histories of all users, ``None`` while a partition of them is missing."""
    page = worker.get("/v1/state/fraud/history?limit=200")
    return None if page is None or page["partial"] else page


def _owned(worker: Worker) -> set[int]:
    operators = worker.get("/v1/operators")["operators"]
    return {one["partition"] for operator in operators if operator["uid"] == "fraud" for one in operator["partitions"]}


def test_a_spare_shows_the_alerts_of_the_active_worker(tmp_path: Path) -> None:
    active = Worker(tmp_path)
    log = Log(active.broker)
    log.rules(HIGH)
    with active:
        active.wait_ready()
        log.transactions(tx(1))
        with Worker(tmp_path, broker=active.broker) as spare:

            def shown() -> set[str]:
                return {alert["transaction_id"] for alert in (spare.get("/v1/alerts") or {"alerts": []})["alerts"]}

            until(lambda: shown() == {"t1"}, within=60, what="the spare shows the alert from before its start")
            log.transactions(tx(2))
            until(lambda: shown() == {"t1", "t2"}, within=60, what="and the one raised now")
            active.kill()
            spare.wait_ready()
            log.transactions(tx(3))
            until(lambda: shown() == {"t1", "t2", "t3"}, within=60, what="and its own after the takeover")
            assert len(spare.get("/v1/alerts")["alerts"]) == 3
