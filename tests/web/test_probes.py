"""Probes over HTTP."""

from __future__ import annotations

import pytest

from app.health import APPLICATION, LIVE, READY, STARTUP
from tests.web.conftest import Client
from tests.web.fakes import Fakes


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz"])
async def test_a_probe_passes_with_status_ok(client: Client, path: str) -> None:
    response = await client.get(path)
    assert response.status == 200
    assert await response.json() == {"status": "ok", "checks": {}}


async def test_a_probe_names_the_application_in_a_header(client: Client, behind: Fakes) -> None:
    assert APPLICATION not in (await client.get("/readyz")).headers
    behind.health.application = "mine"
    assert (await client.get("/readyz")).headers[APPLICATION] == "mine"
    behind.health.register("state", lambda: "recovering", {READY})
    assert (await client.head("/readyz")).headers[APPLICATION] == "mine"


async def test_a_recovering_worker_is_alive_and_not_ready(client: Client, behind: Fakes) -> None:
    behind.health.register("process", lambda: None, {LIVE, READY})
    behind.health.register("state", lambda: "recovering: 12 of 40 MB read", {READY, STARTUP})
    assert (await client.get("/livez")).status == 200
    response = await client.get("/readyz")
    assert response.status == 503
    assert await response.json() == {
        "status": "unavailable",
        "checks": {
            "process": {"status": "ok"},
            "state": {"status": "unavailable", "reason": "recovering: 12 of 40 MB read"},
        },
    }
    assert (await client.get("/startupz")).status == 503


async def test_head_answers_as_get_does(client: Client) -> None:
    response = await client.head("/readyz")
    assert response.status == 200
    assert await response.read() == b""
