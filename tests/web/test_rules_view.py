"""Rules over HTTP: every change names the version that it was made from."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from models.rules import Rule
from tests.web.conftest import Client
from tests.web.fakes import Fakes, rule

RULE = {"description": "Big", "active": True, "risk_level": "HIGH", "when": "amount > 10000.0"}


def as_json(given: Rule) -> Any:
    return msgspec.to_builtins(given)


async def put(client: Client, rule_id: str, value: object, **headers: str) -> tuple[int, Any, str | None]:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    response = await client.put(f"/v1/rules/{rule_id}", json=value, headers=named)
    return response.status, await response.json(content_type=None), response.headers.get("ETag")


async def test_a_rule_is_created_read_and_listed_with_its_counts(client: Client, behind: Fakes) -> None:
    status, made, tag = await put(client, "BIG", RULE)
    assert (status, tag) == (201, '"1"')
    assert made["rule_id"] == "BIG"
    behind.stats["BIG"] = {"fired": 7, "errors": 2}
    response = await client.get("/v1/rules/BIG")
    found = await response.json()
    assert response.headers["ETag"] == '"1"'
    assert {name: found[name] for name in RULE} == RULE
    assert (found["version"], found["fired"], found["errors"]) == (1, 7, 2)
    assert await (await client.get("/v1/rules")).json() == {"rules": [found], "cursor": None}


async def test_creation_says_where_the_rule_is(client: Client) -> None:
    response = await client.put("/v1/rules/A%2FB%20%7Bx%7D", json=RULE)
    assert response.status == 201
    assert response.headers["Location"] == "/v1/rules/A%2FB%20%7Bx%7D"
    assert (await (await client.get("/v1/rules/A%2FB%20%7Bx%7D")).json())["rule_id"] == "A/B {x}"


async def test_an_existing_rule_changes_only_from_the_version_named(client: Client) -> None:
    await put(client, "BIG", RULE)
    changed = {**RULE, "active": False}
    status, problem, _ = await put(client, "BIG", changed)
    assert status == 428
    assert problem["version"] == 1
    assert (await put(client, "BIG", changed, If_Match='"7"'))[0] == 412
    status, answer, tag = await put(client, "BIG", changed, If_Match='"1"')
    assert (status, tag, answer["active"]) == (200, '"2"', False)
    status, problem, _ = await put(client, "BIG", RULE, If_Match='"1"')
    assert status == 412
    assert problem["version"] == 2


@pytest.mark.parametrize("tag", ['W/"1"', "*"])
async def test_a_weak_tag_and_a_star_match(client: Client, tag: str) -> None:
    await put(client, "BIG", RULE)
    assert (await put(client, "BIG", RULE, If_Match=tag))[0] == 200


@pytest.mark.parametrize("tag", ["1", '"x"', '"1", "2"', '""', '"99999999999"'])
async def test_a_tag_that_is_none_of_ours_does_not_match(client: Client, tag: str) -> None:
    await put(client, "BIG", RULE)
    assert (await put(client, "BIG", RULE, If_Match=tag))[0] == 412


async def test_if_match_never_creates_and_if_none_match_never_changes(client: Client) -> None:
    assert (await put(client, "BIG", RULE, If_Match='"1"'))[0] == 412
    assert (await put(client, "BIG", RULE, If_None_Match="*"))[0] == 201
    assert (await put(client, "BIG", RULE, If_None_Match="*"))[0] == 412


async def test_a_refused_rule_answers_with_line_column_and_caret_and_changes_nothing(
    client: Client, behind: Fakes
) -> None:
    status, problem, _ = await put(client, "BIG", {**RULE, "when": "1 < 2 && amout > 5.0"})
    assert status == 422
    assert problem["type"] == "urn:famulus:problem:rule-refused"
    assert (problem["line"], problem["column"]) == (1, 10)
    message, source, caret = problem["detail"].split("\n")
    assert "amout" in message
    assert source[caret.index("^") :].startswith("amout")
    assert not behind.rules.steps


@pytest.mark.parametrize(
    "value",
    [
        {},
        {**RULE, "rule_id": "OTHER"},
        {**RULE, "rule_id": 7},
        {**RULE, "extra": 1},
        {**RULE, "active": "yes"},
        {**RULE, "risk_level": "HUGE"},
        {**RULE, "when": None},
        {**RULE, "version": 0},
        {**RULE, "effective_from": -1},
        {name: RULE[name] for name in RULE if name != "when"},
        {**RULE, "description": "x" * 2_000},
    ],
)
async def test_a_body_that_is_no_rule_is_refused(client: Client, value: object) -> None:
    status, problem, _ = await put(client, "BIG", value)
    assert status == 422
    assert problem["detail"]


@pytest.mark.parametrize("text", ["", "{", "nope", "\x00", "[" * 60_000, '{"a":' * 9_000])
async def test_a_body_that_is_no_json_is_refused(client: Client, text: str) -> None:
    response = await client.put("/v1/rules/BIG", data=text, headers={"Content-Type": "application/json"})
    assert response.status == 400


@pytest.mark.parametrize("text", ["[]", '"x"', "1", "null"])
async def test_json_that_is_no_object_is_refused(client: Client, text: str) -> None:
    response = await client.put("/v1/rules/BIG", data=text, headers={"Content-Type": "application/json"})
    assert response.status == 400


async def test_the_id_in_the_body_may_repeat_the_path(client: Client) -> None:
    assert (await put(client, "BIG", {**RULE, "rule_id": "BIG"}))[0] == 201


async def test_a_deleted_rule_is_gone_and_its_history_stays(client: Client) -> None:
    await put(client, "BIG", RULE)
    assert (await client.delete("/v1/rules/BIG", headers={"If-Match": '"9"'})).status == 412
    assert (await client.delete("/v1/rules/BIG", headers={"If-Match": '"1"'})).status == 204
    assert (await client.delete("/v1/rules/BIG")).status == 404
    assert (await client.get("/v1/rules/BIG")).status == 404
    history = await (await client.get("/v1/rules/BIG/history")).json()
    assert [step["version"] for step in history["versions"]] == [1, 2]
    assert history["versions"][1]["rule"] is None
    assert (await put(client, "BIG", RULE))[0] == 201


async def test_history_pages_through_the_versions_oldest_first(client: Client, behind: Fakes) -> None:
    for version in range(1, 6):
        await behind.rules.put(rule("BIG", description=f"v{version}"), None)
    first = await (await client.get("/v1/rules/BIG/history?limit=3")).json()
    assert [step["rule"]["description"] for step in first["versions"]] == ["v1", "v2", "v3"]
    rest = await (await client.get(f"/v1/rules/BIG/history?limit=3&cursor={first['cursor']}")).json()
    assert [step["version"] for step in rest["versions"]] == [4, 5]
    assert rest["cursor"] is None
    assert (await client.get("/v1/rules/BIG/history?cursor=YQ")).status == 400
    assert (await client.get("/v1/rules/NONE/history")).status == 404


async def test_rollback_makes_a_new_version_of_an_old_one(client: Client) -> None:
    await put(client, "BIG", RULE)
    await put(client, "BIG", {**RULE, "when": "amount > 1.0"}, If_Match='"1"')
    response = await client.post("/v1/rules/BIG/rollback", json={"to": 1}, headers={"If-Match": '"2"'})
    assert response.status == 200
    assert response.headers["ETag"] == '"3"'
    assert (await response.json())["when"] == RULE["when"]
    stale = await client.post("/v1/rules/BIG/rollback", json={"to": 1}, headers={"If-Match": '"2"'})
    assert stale.status == 412
    assert (await client.post("/v1/rules/BIG/rollback", json={"to": 99})).status == 404


@pytest.mark.parametrize("value", [{}, {"to": "1"}, {"to": 1, "x": 2}, [1], {"to": 1.5}])
async def test_a_rollback_must_say_where_to(client: Client, value: object) -> None:
    await put(client, "BIG", RULE)
    assert (await client.post("/v1/rules/BIG/rollback", json=value)).status == 400


async def test_rules_page_in_the_order_of_their_ids(client: Client, behind: Fakes) -> None:
    for name in ("C", "A", "B"):
        await behind.rules.put(rule(name), None)
    first = await (await client.get("/v1/rules?limit=2")).json()
    rest = await (await client.get(f"/v1/rules?limit=2&cursor={first['cursor']}")).json()
    assert [found["rule_id"] for found in first["rules"] + rest["rules"]] == ["A", "B", "C"]
    assert rest["cursor"] is None
    assert (await client.get("/v1/rules?limit=1001")).status == 400
