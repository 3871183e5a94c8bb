"""What an analyst does on the console, in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from app.health import READY
from models.rules import RiskLevel
from tests.browser.conftest import Console, close_console, open_console
from tests.web.fakes import alert, fakes, rule
from web.routing import Scope

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>\'"&'


async def texts(page: Page, selector: str) -> Sequence[str]:
    return await page.locator(selector).all_inner_texts()


async def test_alerts_appear_newest_first_while_one_looks(console: Console) -> None:
    console.behind.alerts.feed([alert(1, user_id="ann")])
    await console.page.goto(console.url)
    await expect(console.page.locator(".alert .who")).to_have_text(["ann"])
    console.behind.alerts.feed([alert(2, user_id="bob", risk_level="CRITICAL")])
    await expect(console.page.locator(".alert .who")).to_have_text(["bob", "ann"])
    assert await console.page.locator(".alert").first.get_attribute("data-risk") == "CRITICAL"
    assert console.complaints == []


async def test_an_alert_explains_itself(console: Console) -> None:
    console.behind.alerts.feed([alert(7)])
    await console.page.goto(console.url)
    await console.page.locator(".alert-head").click()
    details = console.page.locator(".details")
    await expect(details.locator("pre")).to_have_text("amount > 10000.0")
    await expect(details).to_contain_text("12,007.00")
    await expect(details).to_contain_text("user-transactions, partition 1, offset 7")
    await expect(details).to_contain_text("HIGH_VALUE, version 1")


async def test_an_explanation_that_is_read_is_not_pushed_away(console: Console) -> None:
    console.behind.alerts.feed([alert(1, user_id="ann")])
    await console.page.goto(console.url)
    await console.page.locator(".alert-head").click()
    console.behind.alerts.feed([alert(2), alert(3)])
    fresh = console.page.locator("#fresh")
    await expect(fresh).to_have_text("2 new alerts")
    await expect(console.page.locator(".alert")).to_have_count(1)
    await fresh.click()
    await expect(console.page.locator(".alert")).to_have_count(3)


async def test_older_alerts_are_a_click_away_and_each_is_shown_once(console: Console) -> None:
    console.behind.alerts.feed([alert(number) for number in range(150)])
    await console.page.goto(console.url)
    await expect(console.page.locator(".alert")).to_have_count(100)
    await console.page.locator("#older").click()
    await expect(console.page.locator(".alert")).to_have_count(150)
    await expect(console.page.locator("#older")).to_be_hidden()


async def test_the_list_can_show_one_user_only(console: Console) -> None:
    console.behind.alerts.feed([alert(number, user_id=f"u{number}") for number in range(3)])
    await console.page.goto(console.url)
    await console.page.fill("#filter-user", "u1")
    await expect(console.page.locator(".alert .who")).to_have_text(["u1"])


async def test_the_list_stands_still_when_it_is_told_to(console: Console) -> None:
    await console.page.goto(console.url)
    await expect(console.page.locator("#alert-empty")).to_be_visible()
    await console.page.click("#pause")
    console.behind.alerts.feed([alert(1)])
    await expect(console.page.locator("#fresh")).to_have_text("1 new alert")
    await expect(console.page.locator(".alert")).to_have_count(0)
    await console.page.click("#pause")
    await expect(console.page.locator(".alert")).to_have_count(1)


async def test_what_users_wrote_stays_text_everywhere(console: Console) -> None:
    explanation = {"condition": HOSTILE, "values": {HOSTILE: HOSTILE}}
    changes = {"message": HOSTILE, "explanation": explanation, "risk_level": HOSTILE}
    console.behind.alerts.feed([alert(1, user_id=HOSTILE, rule_id=HOSTILE, **changes)])
    await console.behind.rules.put(rule(HOSTILE, description=HOSTILE, when=HOSTILE), 0)
    console.behind.state.values = {HOSTILE: HOSTILE}
    console.behind.health.register("state", lambda: HOSTILE, {READY})
    page = console.page
    await page.goto(console.url)
    await expect(page.locator(".alert .who").first).to_have_text(HOSTILE)
    for head in await page.locator(".alert-head").all():
        await head.click()
    await expect(page.locator("#status-text")).to_contain_text(HOSTILE)
    await page.locator(".actions button").first.click()
    await expect(page.locator("#lookup-answer")).to_contain_text(HOSTILE)
    await page.locator(".rule-open").click()
    await expect(page.locator("#editor-title")).to_have_text(HOSTILE)
    await expect(page.locator("#history-list pre")).to_have_text(HOSTILE)
    assert await page.evaluate("window.pwned") is None
    assert await page.locator("body img").count() == 1, "the logo is the only image"
    assert await page.locator("body script").count() == 0


async def test_a_refused_rule_shows_its_caret_in_place_and_can_be_put_right(console: Console) -> None:
    await console.behind.rules.put(rule("BIG"), 0)
    page = console.page
    await page.goto(console.url)
    await page.click(".rule-open")
    await page.fill("#rule-when", "1 < 2 && amout > 5.0")
    await page.click("#editor-save")
    error = page.locator("#when-error")
    await expect(error).to_be_visible()
    await expect(error.locator("p")).to_contain_text("amout")
    source, caret = (await error.locator("pre").inner_text()).split("\n")
    assert source[caret.index("^") :].startswith("amout")
    field, below = await page.locator("#rule-when").bounding_box(), await error.bounding_box()
    assert field is not None
    assert below is not None
    assert abs(below["y"] - (field["y"] + field["height"])) < 10, "the error stands right under the text"
    assert await page.evaluate("document.activeElement.id + document.activeElement.selectionStart") == "rule-when9"
    assert len(console.behind.rules.steps["BIG"]) == 1
    await page.fill("#rule-when", "amount > 5.0")
    await page.click("#editor-save")
    await expect(page.locator("#editor")).to_be_hidden()
    saved = await console.behind.rules.get("BIG")
    assert saved.version == 2
    assert saved.rule == rule("BIG", when="amount > 5.0")
    await expect(page.locator("#rule-rows td.num").first).to_have_text("2")


async def test_a_rule_is_made_with_the_keyboard_alone(console: Console) -> None:
    page = console.page
    await page.goto(console.url)
    await expect(page.locator("#rules-empty")).to_be_visible()
    await page.focus("#new-rule")
    await page.keyboard.press("Enter")
    await page.keyboard.type("NEW")
    await page.keyboard.press("Tab")
    await page.keyboard.type("CRITICAL")
    await page.keyboard.press("Tab")
    await page.keyboard.type("A new one")
    await page.keyboard.press("Tab")
    await page.keyboard.type("amount > 1.0")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".rule-open .name")).to_have_text("NEW")
    made = (await console.behind.rules.get("NEW")).rule
    assert made == rule("NEW", description="A new one", risk_level=RiskLevel.CRITICAL, when="amount > 1.0")


async def test_a_rule_that_somebody_else_changed_is_not_overwritten(console: Console) -> None:
    await console.behind.rules.put(rule("BIG"), 0)
    page = console.page
    await page.goto(console.url)
    await page.click(".rule-open")
    await page.fill("#rule-when", "amount > 1.0")
    await console.behind.rules.put(rule("BIG", when="amount > 2.0"), 1)
    await page.click("#editor-save")
    await expect(page.locator("#editor-note")).to_contain_text("Somebody changed this rule meanwhile")
    await page.click("#editor-note button")
    await expect(page.locator("#rule-when")).to_have_value("amount > 2.0")
    await expect(page.locator("#editor-version")).to_have_text("version 2")


async def test_what_was_typed_is_not_lost_by_a_slip(console: Console) -> None:
    await console.behind.rules.put(rule("BIG"), 0)
    page = console.page
    await page.goto(console.url)
    await page.click(".rule-open")
    await expect(page.locator("#rule-when")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.locator("#editor")).to_be_hidden()
    await page.click(".rule-open")
    await expect(page.locator("#rule-when")).to_be_focused()
    await page.fill("#rule-when", "amount > 1.0")
    await page.click("#editor-close")
    await expect(page.locator("#editor-note")).to_contain_text("not saved")
    await page.click("#editor-close")
    await expect(page.locator("#editor")).to_be_hidden()


async def test_a_switch_disables_and_enables_a_rule_and_keeps_the_rest_of_it(console: Console) -> None:
    given = rule("BIG", effective_from=1_700_000_000_000)
    await console.behind.rules.put(given, 0)
    page = console.page
    await page.goto(console.url)
    switch = page.get_by_role("switch", name="BIG active")
    await expect(switch).to_be_checked()
    await switch.click()
    await expect(page.locator("#toast")).to_contain_text("BIG is disabled")
    assert (await console.behind.rules.get("BIG")).rule == rule("BIG", effective_from=1_700_000_000_000, active=False)
    await switch.click()
    await expect(page.locator("#toast")).to_contain_text("BIG is active")
    assert (await console.behind.rules.get("BIG")).rule == given


async def test_an_earlier_version_comes_back_and_a_deleted_rule_goes(console: Console) -> None:
    await console.behind.rules.put(rule("BIG"), 0)
    await console.behind.rules.put(rule("BIG", when="amount > 1.0"), 1)
    page = console.page
    await page.goto(console.url)
    await page.click(".rule-open")
    await page.get_by_role("button", name="Roll back to this").click()
    await expect(page.locator("#rule-when")).to_have_value("amount > 10000.0")
    await expect(page.locator("#editor-version")).to_have_text("version 3")
    await page.click("#editor-delete")
    await expect(page.locator("#editor-delete")).to_have_text("Really delete?")
    assert len(console.behind.rules.steps["BIG"]) == 3, "one click deletes nothing"
    await page.click("#editor-delete")
    await expect(page.locator("#rules-empty")).to_be_visible()
    assert console.behind.rules.steps["BIG"][-1].rule is None


async def test_state_is_looked_up_by_key_and_by_prefix(console: Console) -> None:
    console.behind.state.values = {**console.behind.state.values, "eu/ü 1": {"n": 1}}
    page = console.page
    await page.goto(console.url)
    await page.fill("#lookup-key", "user42")
    await page.get_by_role("button", name="Look up").click()
    answer = page.locator("#lookup-answer")
    await expect(answer.locator("tbody tr")).to_have_count(2)
    await expect(answer).to_contain_text("source offset 4,711")
    await page.fill("#lookup-key", "eu*")
    await page.keyboard.press("Enter")
    await answer.get_by_role("button", name="eu/ü 1").click()
    await expect(answer.locator("pre")).to_have_text('{\n  "n": 1\n}')
    await page.fill("#lookup-key", "nobody")
    await page.keyboard.press("Enter")
    await expect(answer).to_contain_text("no key 'nobody'")


async def test_the_header_says_how_the_worker_is(console: Console) -> None:
    reasons = ["recovering: 3 of 4 partitions"]
    console.behind.health.register("state", lambda: reasons[0] if reasons else None, {READY})
    page = console.page
    await page.goto(console.url)
    status = page.locator("#status")
    await expect(status).to_have_text("Not ready: recovering: 3 of 4 partitions")
    reasons.clear()
    await expect(status).to_have_text("Ready")
    await expect(page.locator("#lag")).to_have_text("15")
    await page.context.set_offline(True)
    await expect(status).to_have_text("The worker does not answer.")
    await page.context.set_offline(False)
    await expect(status).to_have_text("Ready")


async def test_throughput_comes_from_the_metrics(console: Console) -> None:
    await console.page.goto(console.url)
    counted = console.behind.processed.labels("fraud")
    counted.inc(1)
    await expect(console.page.locator("#rate")).to_have_text("0")
    counted.inc(100_000)
    await expect(console.page.locator("#rate")).not_to_have_text("0")


async def test_the_page_runs_under_its_policy_and_asks_nobody_else(console: Console) -> None:
    response = await console.page.goto(console.url)
    assert response is not None
    policy = await response.header_value("Content-Security-Policy")
    assert policy is not None
    assert "script-src 'self'" in policy
    await expect(console.page.locator("#status")).to_have_text("Ready")
    await console.page.click("#new-rule")
    blocked = await console.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.pwned = 1';"
        " document.body.append(s); return window.pwned === undefined }"
    )
    assert blocked
    assert [entry for entry in console.complaints if "script" not in entry] == []
    assert console.foreign == []


@pytest_asyncio.fixture(loop_scope="module")
async def narrow(browser: Browser) -> AsyncIterator[Console]:
    console = await open_console(browser, fakes(), width=360, height=740)
    yield console
    await close_console(console)


async def test_a_narrow_screen_needs_no_sideways_scrolling(narrow: Console) -> None:
    narrow.behind.alerts.feed([alert(1, user_id="u" * 256)])
    await narrow.behind.rules.put(rule("R" * 256), 0)
    await narrow.page.goto(narrow.url)
    await expect(narrow.page.locator(".alert")).to_have_count(1)
    await expect(narrow.page.locator(".rule-open")).to_have_count(1)
    await expect(narrow.page.locator("#operator-rows tr")).to_have_count(1)
    width = await narrow.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    await narrow.page.click("#new-rule")
    await expect(narrow.page.locator("#editor-save")).to_be_in_viewport()


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(browser: Browser) -> AsyncIterator[Console]:
    console = await open_console(browser, fakes().with_tokens(reader=[Scope.READ]))
    yield console
    await close_console(console)


async def test_a_worker_with_tokens_asks_for_one_and_keeps_to_its_scopes(guarded: Console) -> None:
    await guarded.behind.rules.put(rule("BIG"), 0)
    page = guarded.page
    await page.goto(guarded.url)
    await page.get_by_label("Access token").fill("wrong")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("status")).to_contain_text("unknown or has expired")
    await page.get_by_label("Access token").fill("reader")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#status")).to_have_text("Ready")
    await page.get_by_role("switch", name="BIG active").click()
    await expect(page.locator("#toast")).to_contain_text("lacks the scope rules")
    await expect(page.get_by_role("switch", name="BIG active")).to_be_checked()
