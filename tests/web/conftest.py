"""A server on loopback with fakes behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.web.fakes import Fakes, fakes
from web.application import create_web_app

Client = TestClient[web.Request, web.Application]
Connect = Callable[[Fakes], Awaitable[Client]]


@pytest.fixture
def behind() -> Fakes:
    return fakes()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Start a server for given fakes."""
    clients: list[Client] = []

    async def start(behind: Fakes) -> Client:
        client: Client = TestClient(TestServer(create_web_app(behind.services)))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def client(behind: Fakes, connect: Connect) -> Client:
    return await connect(behind)
