"""Hot standbys on a real Kafka."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.test_fraud_job import HIGH, Log, tx
from tests.integration.test_queries import whole_listing
from tests.support.waiting import until
from tests.support.worker import Worker


def test_a_standby_takes_over_by_reading_the_last_part_of_the_changelog_only(tmp_path: Path, kafka_url: str) -> None:
    first, second = (
        Worker(tmp_path / name, broker=kafka_url, FAMULUS_JOBS="fraud", FAMULUS_STANDBY_REPLICAS="1")
        for name in ("first", "second")
    )
    log = Log(kafka_url)
    log.rules(HIGH)
    with first:
        first.wait_ready(60)
        for slice_ in range(10):
            log.transactions(*(tx(slice_ * 100 + n, user=f"user{n}") for n in range(100)))
            until(lambda want=100 * (slice_ + 1): len(log.alerts()) == want, within=60, what="judged")  # type: ignore[misc]
        with second:
            second.wait_ready(60)
            page = until(lambda: whole_listing(second), within=60, what="both work")
            assert len(page["items"]) == 100
            until(lambda: "standby: up to date" in second.log_text(), within=60, what="the second one is a standby")
            first.kill()
            until(
                lambda: re.search(r"standby state of \d+ partitions", second.log_text().rpartition("up to date")[2]),
                within=60,
                what="the standby state is taken",
            )
            until(lambda: second.get("/readyz"), within=60, what="the second one is ready")
            read = [int(n) for n in re.findall(r"(\d+) changelog records read back", second.log_text())]
            # Its own partitions are read again at every rebalance; those of the first worker cost little on top of that.
            assert read[-1] - read[-2] < 200, read
            log.transactions(tx(5000, user="user7"))
            until(lambda: len(log.alerts()) == 1001, within=60, what="it goes on")
            found = second.get("/v1/state/fraud/history/user7")
            assert len(found["value"]) == 11
