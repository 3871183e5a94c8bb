"""Operators and keyed state over HTTP."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import quote

import pytest

from models.time import NO_TIME
from tests.web.conftest import Client
from tests.web.fakes import NOW_MS, Fakes
from web import state


async def body(client: Client, path: str, status: int = 200) -> Any:
    response = await client.get(path)
    assert response.status == status, await response.text()
    return await response.json(content_type=None)


async def test_operators_say_what_they_hold_and_where_they_stand(client: Client) -> None:
    assert await body(client, "/v1/operators") == {
        "operators": [
            {
                "uid": "fraud",
                "name": "Fraud detection",
                "states": [{"name": "history", "kind": "timeseries", "key_type": "string"}],
                "partitions": [
                    {"partition": 0, "watermark": NOW_MS, "lag": 0},
                    {"partition": 1, "watermark": NOW_MS - 2_000, "lag": 12},
                    {"partition": 2, "watermark": NOW_MS - 500, "lag": 3},
                    {"partition": 3, "watermark": NOW_MS - 1_000, "lag": 0},
                ],
                "watermark": NOW_MS - 2_000,
                "lag": 15,
            }
        ]
    }


async def test_an_operator_has_no_watermark_before_each_of_its_partitions_has(
    client: Client, behind: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    [fraud] = behind.state.operators()
    waiting = dataclasses.replace(fraud, watermarks={0: NOW_MS, 1: NO_TIME}, lag={})
    monkeypatch.setattr(behind.state, "operators", lambda: [waiting])
    [operator] = (await body(client, "/v1/operators"))["operators"]
    assert operator["watermark"] is None
    assert operator["lag"] is None
    assert [part["watermark"] for part in operator["partitions"]] == [NOW_MS, None, None, None]


async def test_a_query_that_finds_its_key_does_not_ask_about_all_operators(
    client: Client, behind: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(type(behind.state), "operators")
    await body(client, "/v1/state/fraud/history/user42")
    await body(client, "/v1/state/fraud/history")


async def test_a_key_answers_with_its_value_by_field_name_and_how_fresh_it_is(client: Client) -> None:
    assert await body(client, "/v1/state/fraud/history/user42") == {
        "operator": "fraud",
        "state": "history",
        "key": "user42",
        "value": [
            {"timestamp": NOW_MS - 60_000, "amount": 12.5, "merchant": "m17", "country": "DE"},
            {"timestamp": NOW_MS, "amount": 99.0, "merchant": "", "country": ""},
        ],
        "partition": 1,
        "source_offset": 4_711,
        "watermark": NOW_MS,
    }


@pytest.mark.parametrize(
    "key", ["a/b", "a//b/", "a b", "50%", "%2F", "ü€😀", "../../etc/passwd", "a?b#c", "{x}", "a+b", "x;y=1", "a\nb"]
)
async def test_any_text_can_be_a_key(client: Client, behind: Fakes, key: str) -> None:
    behind.state.values = {key: 1}
    found = await body(client, f"/v1/state/fraud/history/{quote(key, safe='')}")
    assert found["key"] == key


async def test_a_key_with_slashes_needs_no_encoding(client: Client, behind: Fakes) -> None:
    behind.state.values = {"eu/de/7": 1}
    assert (await body(client, "/v1/state/fraud/history/eu/de/7"))["key"] == "eu/de/7"


async def test_a_key_that_is_no_utf8_is_not_found(client: Client) -> None:
    assert (await client.get("/v1/state/fraud/history/%FF%FE")).status == 404


@pytest.mark.parametrize(
    ("path", "kind", "named"),
    [
        ("/v1/state/fruad/history/user42", "urn:famulus:problem:unknown-operator", "there are: fraud"),
        ("/v1/state/fraud/histroy/user42", "urn:famulus:problem:unknown-state", "it has: history"),
        ("/v1/state/fraud/history/user43", "about:blank", "user43"),
        ("/v1/state/fruad/history", "urn:famulus:problem:unknown-operator", "there are: fraud"),
    ],
)
async def test_what_does_not_exist_is_named(client: Client, path: str, kind: str, named: str) -> None:
    problem = await body(client, path, 404)
    assert problem["type"] == kind
    assert named in problem["detail"]
    assert problem["instance"] == path


async def test_a_recovering_key_says_when_to_ask_again(client: Client, behind: Fakes) -> None:
    behind.state.recovering.add("user42")
    response = await client.get("/v1/state/fraud/history/user42")
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert (await response.json(content_type=None))["status"] == 503


async def test_pages_of_keys_follow_each_other_in_key_order(client: Client, behind: Fakes) -> None:
    behind.state.values = {f"u{n:02}": n for n in range(25)} | {"other": 0}
    seen: list[str] = []
    cursor = ""
    while True:
        page = await body(client, f"/v1/state/fraud/history?prefix=u&limit=10{cursor}")
        seen += [item["key"] for item in page["items"]]
        assert not page["partial"]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert seen == [f"u{n:02}" for n in range(25)]


async def test_a_page_says_when_keys_may_be_missing(client: Client, behind: Fakes) -> None:
    behind.state.recovering.add("user1")
    assert (await body(client, "/v1/state/fraud/history"))["partial"] is True


async def test_a_page_of_large_values_ends_early_and_loses_none(
    client: Client, behind: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PAGE_BYTES", 1_000)
    behind.state.values = {f"u{n}": "x" * 400 for n in range(5)} | {"u2": "x" * 5_000}
    seen: list[str] = []
    cursor = ""
    for _ in range(5):
        page = await body(client, f"/v1/state/fraud/history?limit=5{cursor}")
        seen += [item["key"] for item in page["items"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert seen == ["u0", "u1", "u2", "u3", "u4"]


@pytest.mark.parametrize("limit", ["0", "-1", "201", "x", "", "1e3", "٣", "9" * 50])
@pytest.mark.parametrize("path", ["/v1/state/fraud/history"])
async def test_a_bad_limit_is_refused(client: Client, path: str, limit: str) -> None:
    problem = await body(client, f"{path}?limit={quote(limit)}", 400)
    assert "from 1 to 200" in problem["detail"]


@pytest.mark.parametrize("cursor", ["%%%", "ä", "_w"])
async def test_a_bad_cursor_is_refused(client: Client, cursor: str) -> None:
    problem = await body(client, f"/v1/state/fraud/history?cursor={quote(cursor)}", 400)
    assert problem["type"] == "urn:famulus:problem:bad-cursor"


async def test_values_that_json_cannot_say_are_answered_all_the_same(client: Client, behind: Fakes) -> None:
    behind.state.values = {"odd": {"nan": float("nan"), "set": {1}, "tuple": (1, b"x"), 7: object}}
    value = (await body(client, "/v1/state/fraud/history/odd"))["value"]
    assert value["nan"] is None
    assert value["set"] == [1]
    assert value["7"] == "<class 'object'>"
