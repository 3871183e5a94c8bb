"""The typed client of keyed state, against the real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.client import QueryRefused, StateClient
from models.errors import NotFound, StateUnavailable
from models.history import HistoryEntry
from tests.web.fakes import Fakes, fakes
from web.application import create_web_app
from web.routing import Handler, Scope


class Entry(msgspec.Struct):
    """An entry of the history as the interface shows it: fields by name."""

    timestamp: int
    amount: float


@pytest.fixture
async def behind() -> Fakes:
    return fakes()


@pytest.fixture
async def server(behind: Fakes) -> AsyncIterator[TestServer]:
    running = TestServer(create_web_app(behind.services), host="127.0.0.1")
    await running.start_server()
    yield running
    await running.close()


async def test_a_value_comes_typed_with_the_offset_that_it_contains(server: TestServer) -> None:
    async with StateClient(str(server.make_url("/"))) as client:
        answer = await client.get("fraud", "history", "user42", list[Entry])
        assert [entry.amount for entry in answer.value] == [12.5, 99.0]
        assert answer.key == "user42"
        assert answer.source_offset >= 0


async def test_what_is_not_there_is_not_found(server: TestServer) -> None:
    async with StateClient(str(server.make_url("/"))) as client:
        for key in ("nobody", "a/b?c#d", "../x"):
            with pytest.raises(NotFound, match="no key"):
                await client.get("fraud", "history", key, list[Entry])
        assert await client.find("fraud", "history", "nobody", list[Entry]) is None


@pytest.mark.parametrize("key", ["a/b?c#d", "50%", "%2F", "ä b+c", "../x"])
async def test_any_key_can_be_asked_for(behind: Fakes, server: TestServer, key: str) -> None:
    behind.state.values = {key: 7}
    async with StateClient(str(server.make_url("/"))) as client:
        assert (await client.get("fraud", "history", key, int)).value == 7


async def test_keys_are_listed_over_all_pages(behind: Fakes, server: TestServer) -> None:
    behind.state.values = {f"key{n:04}": [HistoryEntry(n, 1.0)] for n in range(2_345)}
    async with StateClient(str(server.make_url("/"))) as client:
        found = [one.key async for one in client.list("fraud", "history", list[Entry], prefix="key")]
    assert found == [f"key{n:04}" for n in range(2_345)]


async def test_a_value_of_another_type_is_refused_with_both_names(server: TestServer) -> None:
    async with StateClient(str(server.make_url("/"))) as client:
        with pytest.raises(QueryRefused, match="Expected `int`"):
            await client.get("fraud", "history", "user42", int)


async def test_recovery_is_waited_for_and_not_for_ever(behind: Fakes, server: TestServer) -> None:
    url = str(server.make_url("/"))
    behind.state.recovering.add("user42")
    async with StateClient(url, patience=timedelta(milliseconds=150)) as client:
        with pytest.raises(StateUnavailable):
            await client.get("fraud", "history", "user42", list[Entry])


async def test_a_token_opens_the_door_and_without_it_the_status_says_why() -> None:
    guarded = fakes().with_tokens(reader=[Scope.READ])
    async with TestServer(create_web_app(guarded.services), host="127.0.0.1") as server:
        url = str(server.make_url("/"))
        async with StateClient(url, token="reader") as client:
            assert (await client.get("fraud", "history", "user42", list[Any])).value
        async with StateClient(url) as client:
            with pytest.raises(QueryRefused) as refused:
                await client.get("fraud", "history", "user42", list[Any])
            assert refused.value.status == 401


async def test_nobody_listening_and_a_client_that_is_not_open_are_said_plainly() -> None:
    async with StateClient("http://127.0.0.1:1") as client:
        with pytest.raises(QueryRefused, match="does not answer"):
            await client.get("fraud", "history", "u", int)
    with pytest.raises(QueryRefused, match="async with"):
        await client.get("fraud", "history", "u", int)


@pytest.mark.parametrize("body", [b"<html>", b'{"key":"\xff"}', b'{"key":' + b"[" * 20_000, b"null", b""])
@pytest.mark.parametrize("status", [200, 500])
async def test_what_answers_nonsense_is_refused_whatever_it_is(body: bytes, status: int) -> None:
    async def nonsense(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    async with stranger(nonsense) as server, StateClient(str(server.make_url("/"))) as client:
        with pytest.raises(QueryRefused) as refused:
            await client.get("fraud", "history", "u", int)
        assert refused.value.status == status


async def test_what_never_answers_is_said_to_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.client._REQUEST_S", 0.1)
    asked = asyncio.Event()

    async def silence(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with stranger(silence) as server, StateClient(str(server.make_url("/"))) as client:
        with pytest.raises(QueryRefused, match=r"does not answer: .*Timeout"):
            await client.get("fraud", "history", "u", int)
    assert asked.is_set()


def stranger(handler: Handler) -> TestServer:
    """A server that is no worker."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    return TestServer(app, host="127.0.0.1")
