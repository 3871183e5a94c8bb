"""A real Chromium on a real server with fakes behind it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, async_playwright

from tests.web.fakes import Fakes, fakes
from web.application import create_web_app

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """Path of the browser.  A missing one is a named skip on a laptop and a failure in CI."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing = "Chromium is missing: install Debian's package chromium, or name a browser in CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return path


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    # Chromium refuses its own sandbox to root, which is who containers run as.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()


@dataclass
class Console:
    """The console in a tab.  ``complaints`` has what the browser logged as an error, ``foreign`` requests to elsewhere."""

    page: Page
    behind: Fakes
    url: str
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


async def open_console(browser: Browser, behind: Fakes, *, width: int = 1280, height: int = 800) -> Console:
    """Start a server for the fakes and a tab on it; ``page.context`` and the server end with :func:`close_console`."""
    server = TestServer(create_web_app(behind.services), host="127.0.0.1")
    await server.start_server()
    context = await browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(10_000)
    page = await context.new_page()
    console = Console(page, behind, str(server.make_url("/")))
    page.on("console", lambda entry: console.complaints.append(entry.text) if entry.type == "error" else None)
    page.on("pageerror", lambda error: console.complaints.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith(console.url) else console.foreign.append(sent.url))
    page.on("dialog", lambda dialog: console.complaints.append(f"dialog: {dialog.message}"))
    _servers[page] = server
    return console


async def close_console(console: Console) -> None:
    await console.page.context.close()
    await _servers.pop(console.page).close()


_servers: dict[Page, TestServer] = {}


@pytest_asyncio.fixture(loop_scope="module")
async def console(browser: Browser) -> AsyncIterator[Console]:
    console = await open_console(browser, fakes())
    yield console
    await close_console(console)
