"""Questions that another worker answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from app import routed_queries
from app.queries import StateAnswer, StatePage, cursor_of
from app.routed_queries import FORWARDED, Reach, RoutedStateQueries, reach, reach_of
from models.errors import NotFound, StateUnavailable

VALUE = ["x" * 100] * 20_000


class Elsewhere:
    """This worker owns nothing, and perhaps does not even run the operator; ``url`` does."""

    def __init__(self, url: str, *, runs: bool = True) -> None:
        self.url = url
        self.runs = runs
        self.mine = StatePage([], None, partial=False)

    def has(self, operator: str) -> bool:
        return self.runs

    async def list(self, *asked: object) -> StatePage:
        return self.mine

    def partitions(self, operator: str) -> set[int]:
        return {0}

    def count(self, operator: str) -> int:
        return 2

    def others(self, uid: str) -> dict[str, set[int]]:
        return {self.url: {1}}

    def place(self, operator: str, key: str) -> tuple[int, bool]:
        return 0, False

    def owner(self, uid: str, partition: int) -> str:
        return self.url

    def is_own(self, url: str) -> bool:
        return False


@asynccontextmanager
async def asking(
    body: dict[str, Any],
    *,
    runs: bool = True,
    mine: StatePage | None = None,
    asked: list[tuple[str, str]] | None = None,
) -> AsyncIterator[RoutedStateQueries]:
    """``asked`` gets the path and the reach of each request that goes to the other worker."""

    async def answer(request: web.Request) -> web.Response:
        if asked is not None:
            asked.append((request.raw_path.partition("?")[0], request.headers[FORWARDED]))
        return web.json_response(body)

    owner = web.Application()
    owner.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(owner)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        other = cast(Any, Elsewhere(f"http://127.0.0.1:{runner.addresses[0][1]}", runs=runs))
        other.mine = mine or other.mine
        async with aiohttp.ClientSession() as session:
            yield RoutedStateQueries(other, other, lambda: session)
    finally:
        await runner.cleanup()


def _found(value: Any) -> dict[str, Any]:
    return {
        "operator": "fraud",
        "state": "history",
        "key": "user1",
        "value": value,
        "partition": 0,
        "source_offset": 7,
        "watermark": None,
    }


async def test_an_answer_larger_than_one_network_read_arrives_whole() -> None:
    async with asking(_found(VALUE)) as queries:
        found: StateAnswer = await queries.get("fraud", "history", "user1")
    assert found.value == VALUE


async def test_an_answer_beyond_the_bound_is_given_up_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routed_queries, "MAX_ANSWER", 1000)
    async with asking(_found(VALUE)) as queries:
        with pytest.raises(StateUnavailable, match="more than 1000 bytes"):
            await queries.get("fraud", "history", "user1")


def _item(key: str) -> dict[str, Any]:
    return {**_found([]), "key": key}


def _local(*keys: str) -> list[StateAnswer]:
    return [StateAnswer("fraud", "history", key, [], 0, 7, 0) for key in keys]


async def test_a_page_that_ended_early_elsewhere_ends_the_whole_page_so_that_no_key_is_passed_over() -> None:
    page = {"items": [_item("b"), _item("d")], "cursor": cursor_of("d"), "partial": False}
    async with asking(page, mine=StatePage(_local("a", "c", "e", "f"), None, partial=False)) as queries:
        found = await queries.list("fraud", "history", "", 50, None)
    assert [answer.key for answer in found.answers] == ["a", "b", "c", "d"]
    assert found.cursor == "d"
    assert not found.partial


async def test_pages_that_are_whole_are_one_page_with_no_more_than_the_limit() -> None:
    page = {"items": [_item("b"), _item("d")], "cursor": None, "partial": False}
    for limit, keys, cursor in ((50, "abcd", None), (4, "abcd", None), (3, "abc", "c")):
        async with asking(page, mine=StatePage(_local("a", "c"), None, partial=False)) as queries:
            found = await queries.list("fraud", "history", "", limit, None)
        assert ("".join(answer.key for answer in found.answers), found.cursor) == (keys, cursor)


@pytest.mark.parametrize("key", [".", "..", "a/b", "100%", "\u00fc?#"])
async def test_a_key_reaches_its_owner_as_it_is(key: str) -> None:
    asked: list[tuple[str, str]] = []
    async with asking(_found(1), asked=asked) as queries:
        await queries.get("fraud", "history", key)
    assert asked == [(f"/v1/state/fraud/history/{quote(key, safe='')}", "local")]


async def test_a_worker_without_the_operator_asks_one_that_runs_it_and_that_one_the_owner() -> None:
    asked: list[tuple[str, str]] = []
    page = {"items": [_item("b")], "cursor": cursor_of("b"), "partial": True}
    async with asking(_found(1), runs=False, asked=asked) as queries:
        assert (await queries.get("fraud", "history", "user1")).value == 1
    async with asking(page, runs=False, asked=asked) as queries:
        found = await queries.list("fraud", "history", "", 1, None)
    assert asked == [("/v1/state/fraud/history/user1", "owners"), ("/v1/state/fraud/history", "owners")]
    assert ([answer.key for answer in found.answers], found.cursor, found.partial) == (["b"], "b", True)


@pytest.mark.parametrize("allowed", [Reach.OWNERS, Reach.LOCAL])
async def test_workers_without_the_operator_do_not_ask_each_other_for_ever(allowed: Reach) -> None:
    token = reach.set(reach_of(allowed.value))
    try:
        async with asking(_found(1), runs=False) as queries:
            with pytest.raises(NotFound):
                await queries.get("fraud", "history", "user1")
    finally:
        reach.reset(token)


def test_what_a_header_allows() -> None:
    assert [reach_of(header) for header in (None, "owners", "local", "1")] == [
        Reach.ANYBODY,
        Reach.OWNERS,
        Reach.LOCAL,
        Reach.LOCAL,
    ]
