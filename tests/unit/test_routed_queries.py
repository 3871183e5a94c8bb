"""Questions that another worker answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from app import routed_queries
from app.queries import StateAnswer
from app.routed_queries import RoutedStateQueries
from models.errors import StateUnavailable

VALUE = ["x" * 100] * 20_000


class Elsewhere:
    """This worker owns nothing; ``url`` does."""

    def __init__(self, url: str) -> None:
        self.url = url

    def place(self, operator: str, key: str) -> tuple[int, bool]:
        return 0, False

    def owner(self, uid: str, partition: int) -> str:
        return self.url

    def is_own(self, url: str) -> bool:
        return False


@asynccontextmanager
async def asking(body: dict[str, Any]) -> AsyncIterator[RoutedStateQueries]:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body)

    owner = web.Application()
    owner.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(owner)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        other = cast(Any, Elsewhere(f"http://127.0.0.1:{runner.addresses[0][1]}"))
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
