"""Recent alerts over HTTP."""

from __future__ import annotations

import pytest

from tests.web.conftest import Client
from tests.web.fakes import NOW_MS, Fakes, alert


async def test_an_alert_is_answered_as_it_is_on_the_topic(client: Client, behind: Fakes) -> None:
    behind.alerts.feed([alert(1)])
    page = await (await client.get("/v1/alerts")).json()
    [found] = page["alerts"]
    assert page["cursor"] is None
    assert found.pop("alert_id")
    assert found == {
        "user_id": "user42",
        "rule_id": "HIGH_VALUE",
        "rule_version": 1,
        "risk_level": "HIGH",
        "message": "Rule triggered: Transaction amount > $10,000",
        "timestamp": NOW_MS + 1,
        "transaction_id": "t1",
        "source": {"topic": "user-transactions", "partition": 1, "offset": 1},
        "explanation": {"condition": "amount > 10000.0", "values": {"amount": 12_001.0}},
    }


async def test_alerts_page_newest_first_through_filters(client: Client, behind: Fakes) -> None:
    behind.alerts.feed([alert(n, user_id=f"u{n % 2}") for n in range(20)])
    seen: list[int] = []
    cursor = ""
    while True:
        page = await (await client.get(f"/v1/alerts?user_id=u1&limit=4{cursor}")).json()
        seen += [found["source"]["offset"] for found in page["alerts"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert seen == list(range(19, 0, -2))


async def test_nothing_new_costs_nothing(client: Client, behind: Fakes) -> None:
    behind.alerts.feed([alert(1)])
    tag = (await client.get("/v1/alerts")).headers["ETag"]
    response = await client.get("/v1/alerts", headers={"If-None-Match": tag})
    assert response.status == 304
    assert await response.read() == b""
    behind.alerts.feed([alert(2)])
    assert (await client.get("/v1/alerts", headers={"If-None-Match": tag})).status == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=ten", "cursor=1", "cursor=feed.9"])
async def test_a_bad_limit_or_cursor_is_refused(client: Client, query: str) -> None:
    response = await client.get(f"/v1/alerts?{query}")
    assert response.status == 400
    assert response.content_type == "application/problem+json"
