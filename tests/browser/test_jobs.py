"""The panel of the jobs besides fraud."""

from __future__ import annotations

import pytest
from playwright.async_api import expect
from prometheus_client import Counter, Gauge, Histogram

from tests.browser.conftest import Console

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
LABELS = ["operator", "name", "label"]


async def test_the_panel_stays_away_while_none_of_its_jobs_runs(console: Console) -> None:
    await console.page.goto(console.url)
    await expect(console.page.locator("#operator-rows tr")).not_to_have_count(0)
    await expect(console.page.locator("#jobs")).to_be_hidden()


async def test_sessions_orders_and_profiles_are_shown_in_numbers(console: Console) -> None:
    registry = console.behind.registry
    values = Gauge("famulus_function_value", "Values", LABELS, registry=registry)
    events = Counter("famulus_function_events", "Events", LABELS, registry=registry)
    seconds = Histogram("famulus_function_seconds", "Times", LABELS, registry=registry, buckets=(0.001, 0.05, 1.0))
    values.labels("sessions", "sessions_open", "").set(1234)
    events.labels("sessions", "sessions_ended", "").inc(200)
    events.labels("sessions", "sessions_converted", "").inc(50)
    values.labels("orders", "orders_waiting", "").set(3)
    for status, count in (("MATCHED", 90), ("PAYMENT_TIMEOUT", 7), ("ORDER_NOT_FOUND", 2)):
        events.labels("orders", "orders", status).inc(count)
    for origin, count in (("cache", 75), ("database", 20), ("default", 5)):
        events.labels("enrichment", "profiles", origin).inc(count)
    for _ in range(100):
        seconds.labels("enrichment", "lookup", "").observe(0.02)
    values.labels("enrichment", "sources_failing", "").set(1)
    await console.page.goto(console.url)
    tiles = console.page.locator("#job-tiles .job")
    await expect(tiles.nth(0).locator("dd")).to_have_text(["1,234", "200", "25 %"])
    await expect(tiles.nth(1).locator("dd")).to_have_text(["3", "90", "7", "2"])
    await expect(tiles.nth(2).locator("dd")).to_have_text(["75 %", "20 %", "5 %", "≤ 50 ms"])
    await expect(tiles.nth(2).locator(".job-note")).to_contain_text("fails")
    assert console.complaints == []
