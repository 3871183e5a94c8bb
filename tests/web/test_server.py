"""The web server as the worker starts and stops it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.alerts import AlertFeed
from app.health import Health
from app.settings import Settings
from models.errors import SettingsError
from tests.web.fakes import Fakes
from web import server as module
from web.server import WebServer


@dataclass
class Conf:
    web_bind: str = "127.0.0.1"
    web_port: int = 0


class FakeWorker:
    """What the server asks of the Faust application."""

    def __init__(self, behind: Fakes) -> None:
        self.settings = Settings()
        self.conf: module.Conf = Conf()
        self.health: Health = behind.health
        self.alerts: AlertFeed = behind.alerts
        self.state_queries: Any = behind.state
        self.rule_service: Any = behind.rules
        self.metrics_registry = behind.registry
        self.rule_stats = lambda: behind.stats


@pytest.fixture
def worker(behind: Fakes) -> FakeWorker:
    return FakeWorker(behind)


@pytest.fixture
async def server(worker: FakeWorker) -> AsyncIterator[WebServer]:
    server = WebServer(worker)
    await server.start()
    yield server
    await server.stop()


async def talk(port: int, data: bytes, wait: float = 5.0) -> bytes:
    """Send bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(wait):
            return await reader.read()
    finally:
        writer.close()


async def test_it_serves_on_the_address_that_the_worker_was_given(server: WebServer) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/livez") as response:
            assert response.status == 200


async def test_a_taken_port_is_named_with_what_to_do(worker: FakeWorker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        worker.conf.web_port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"FAMULUS_WEB_PORT={worker.conf.web_port}: the port is taken"):
            await WebServer(worker).on_start()


async def test_an_address_of_another_machine_is_named(worker: FakeWorker, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f"[[tokens]]\nname='a'\nsha256='{hashlib.sha256(b'a').hexdigest()}'\nscopes=['read']")
    worker.settings = Settings(tokens_file=tokens)
    worker.conf.web_bind = "192.0.2.1"
    with pytest.raises(SettingsError, match=r"FAMULUS_WEB_BIND=192\.0\.2\.1: cannot listen"):
        await WebServer(worker).on_start()


async def test_strangers_are_not_served_without_tokens_whatever_the_command_line_says(worker: FakeWorker) -> None:
    worker.conf.web_bind = "0.0.0.0"
    with pytest.raises(SettingsError, match="FAMULUS_TOKENS_FILE"):
        await WebServer(worker).on_start()


async def test_tokens_of_the_configured_file_are_asked_for(worker: FakeWorker, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f"[[tokens]]\nname='a'\nsha256='{hashlib.sha256(b'secret').hexdigest()}'\nscopes=['read']")
    worker.settings = Settings(tokens_file=tokens)
    server = WebServer(worker)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            for headers, status in (({}, 401), ({"Authorization": "Bearer secret"}, 200)):
                async with session.get(f"http://127.0.0.1:{server.port}/v1/rules", headers=headers) as response:
                    assert response.status == status
    finally:
        await server.stop()


async def test_stopping_frees_the_port_and_takes_less_than_a_second_with_a_request_at_work(
    worker: FakeWorker, behind: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = WebServer(worker)
    await server.start()
    port = server.port
    working, forever = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> Any:
        working.set()
        await forever.wait()

    monkeypatch.setattr(behind.state, "get", wait)
    request = b"GET /v1/state/fraud/history/u HTTP/1.1\r\nHost: localhost\r\n\r\n"
    asking = asyncio.ensure_future(talk(port, request))
    await asyncio.wait_for(working.wait(), 5)
    began = time.monotonic()
    await server.stop()
    assert time.monotonic() - began < 1.0
    await asyncio.wait_for(asking, 5)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


async def test_it_can_stop_without_having_started(worker: FakeWorker) -> None:
    await WebServer(worker).on_stop()


@pytest.mark.parametrize(
    "head", [b"", b"GET /livez HTTP/1.1\r\nHost: local", b"GET / HTTP/1.1\r\nHost: localhost\r\nX:"]
)
async def test_a_head_that_never_ends_is_closed(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(module, "IDLE_TIMEOUT_S", 0.2)
    server = WebServer(worker)
    await server.start()
    try:
        assert await talk(server.port, head) == b""
    finally:
        await server.stop()


async def test_a_head_that_trickles_does_not_buy_time(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_TIMEOUT_S", 0.3)
    server = WebServer(worker)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(b"GET /livez HTTP/1.1\r\n")
        closed = asyncio.ensure_future(reader.read())
        began = time.monotonic()
        while not closed.done() and time.monotonic() - began < 5:
            writer.write(b"X: y\r\n")
            await asyncio.wait({closed}, timeout=0.05)
        assert closed.done()
    finally:
        writer.close()
        await server.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"POST /v1/rules/x/rollback HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_problem_and_the_end_of_the_connection(server: WebServer, data: bytes) -> None:
    answer = await talk(server.port, data)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"application/problem+json" in answer


async def test_a_compressed_body_is_not_blown_up(server: WebServer) -> None:
    bomb = gzip.compress(b'{"to":' + b" " * 1_000_000 + b"1}")
    head = (
        "POST /v1/rules/x/rollback HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Encoding: gzip\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(bomb)}\r\n\r\n"
    )
    assert b"not JSON" in await talk(server.port, head.encode() + bomb)


async def test_more_connections_than_the_limit_are_sent_away(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
    for _, writer in held:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for reader, _ in held:
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert (await talk(server.port, b"")).startswith(b"HTTP/1.1 503")
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    deadline = time.monotonic() + 5
    while not (answer := await talk(server.port, request)).startswith(b"HTTP/1.1 200"):
        assert answer.startswith(b"HTTP/1.1 503")
        assert time.monotonic() < deadline, "places are given back when connections end"
