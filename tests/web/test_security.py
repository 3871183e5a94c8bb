"""What every request must pass and every response carries."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from aiohttp import web

from models.errors import LogError
from tests.web.conftest import Client, Connect
from tests.web.fakes import Fakes
from web import console, security

RULE = {"description": "Big", "active": True, "risk_level": "HIGH", "when": "amount > 10000.0"}


async def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status == status
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = await response.json(content_type=None)
    assert set(body) >= {"type", "title", "status", "detail", "instance"}
    assert body["status"] == status
    return body


@pytest.mark.parametrize("path", ["/", "/livez", "/v1/rules", "/nothing/here", "/v1/state/a/b/c", "/console.js"])
async def test_every_response_carries_the_security_headers(client: Client, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "famulus"
    assert not [name for name in headers if name.lower().startswith("access-control")]


async def test_a_path_that_does_not_exist_is_a_problem(client: Client) -> None:
    assert (await problem(await client.get("/nix"), 404))["instance"] == "/nix"


async def test_a_method_that_is_not_taken_is_a_problem_that_names_those_that_are(client: Client) -> None:
    response = await client.post("/v1/rules/X")
    assert "PUT" in (await problem(response, 405))["detail"]
    assert response.headers["Allow"] == "DELETE, GET, HEAD, PUT"


async def test_a_body_over_the_limit_is_a_problem(client: Client) -> None:
    value = {**RULE, "description": "x" * (security.MAX_BODY_BYTES + 1)}
    await problem(await client.put("/v1/rules/X", json=value), 413)


async def test_a_body_that_trickles_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_TIMEOUT_S", 0.05)

    async def trickle() -> Any:
        yield b"{"
        await asyncio.sleep(1)

    await problem(await client.put("/v1/rules/X", data=trickle(), headers={"Content-Type": "application/json"}), 408)


async def test_a_request_that_takes_too_long_ends(
    client: Client, behind: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "REQUEST_TIMEOUT_S", 0.05)
    forever = asyncio.Event()

    async def wait(*_: object) -> Any:
        await forever.wait()

    monkeypatch.setattr(behind.state, "get", wait)
    with pytest.raises(Exception, match="disconnected"):
        await client.get("/v1/state/fraud/history/user42")
    assert (await client.get("/livez")).status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:6066", "127.0.0.1", "127.0.0.1:80", "[::1]:6066", "[0::1]"])
async def test_the_names_of_this_machine_are_taken(client: Client, host: str) -> None:
    assert (await client.get("/livez", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "evil.example/localhost", "a@localhost", ":"]
)
async def test_a_foreign_name_for_loopback_is_refused_against_dns_rebinding(client: Client, host: str) -> None:
    await problem(await client.get("/v1/rules", headers={"Host": host}), 421)


async def test_a_server_for_strangers_is_reached_by_any_name(connect: Connect, behind: Fakes) -> None:
    open_to_all = dataclasses.replace(behind, services=dataclasses.replace(behind.services, bind="10.1.2.3"))
    client = await connect(open_to_all)
    assert (await client.get("/livez", headers={"Host": "famulus.example"})).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_change_must_be_json_so_that_no_foreign_form_can_make_it(client: Client, kind: str) -> None:
    response = await client.post("/v1/rules/X/rollback", data=b'{"to":1}', headers={"Content-Type": kind})
    await problem(response, 415)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://"])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_a_change_from_a_foreign_page_is_refused(client: Client, method: str, origin: str) -> None:
    path = "/v1/rules/X/rollback" if method == "POST" else "/v1/rules/X"
    await problem(await client.request(method, path, json=RULE, headers={"Origin": origin}), 403)


async def test_a_change_from_our_own_page_is_taken(client: Client) -> None:
    origin = str(client.make_url("/")).rstrip("/")
    assert (await client.put("/v1/rules/X", json=RULE, headers={"Origin": origin})).status == 201


async def test_an_unexpected_error_is_a_problem_that_shows_nothing(
    client: Client, behind: Fakes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> Any:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(behind.rules, "list", fail)
    response = await client.get("/v1/rules")
    assert "hunter2" not in await response.text()
    await problem(response, 500)
    assert "hunter2" in caplog.text
    assert (await client.get("/livez")).status == 200


async def test_a_log_that_takes_nothing_is_unavailable_and_says_no_path(
    client: Client, behind: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> Any:
        raise LogError("/var/lib/famulus/log.db: disk full")

    monkeypatch.setattr(behind.rules, "put", fail)
    response = await client.put("/v1/rules/X", json=RULE)
    assert "/var/lib" not in await response.text()
    assert "Retry-After" in response.headers
    await problem(response, 503)


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/static/x", "/console.js/../index.html", "/%2e%2e/setup.cfg"])
async def test_no_path_leads_out_of_the_consoles_files(client: Client, path: str) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("path", sorted(console.FILES))
async def test_the_consoles_files_are_served_with_their_types_and_tags(client: Client, path: str) -> None:
    response = await client.get(path)
    assert response.status == 200
    assert response.content_type == console.FILES[path][1]
    assert await response.read()
    again = await client.get(path, headers={"If-None-Match": response.headers["ETag"]})
    assert again.status == 304


async def test_changes_and_refusals_leave_an_audit_line_that_nobody_can_forge(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/v1/rules")
    await client.put("/v1/rules/A%0Aprincipal=%22root%22", json=RULE)
    await client.get("/v1/rules", headers={"Host": "evil.example"})
    lines = [record.getMessage() for record in caplog.records if record.name == "famulus.audit"]
    assert lines == [
        'audit: principal="anonymous" remote=127.0.0.1 method="PUT" path="/v1/rules/A%0Aprincipal=%22root%22" status=201',
        'audit: principal="anonymous" remote=127.0.0.1 method="GET" path="/v1/rules" status=421',
    ]


async def test_metrics_are_prometheus_text(client: Client, behind: Fakes) -> None:
    behind.processed.labels("fraud").inc(3)
    response = await client.get("/metrics")
    assert response.content_type == "text/plain"
    assert 'famulus_records_processed_total{operator="fraud"} 3.0' in await response.text()


async def test_any_error_of_aiohttp_is_a_problem(
    client: Client, behind: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def vanish() -> Any:
        raise web.HTTPGone()

    monkeypatch.setattr(behind.rules, "list", vanish)
    await problem(await client.get("/v1/rules"), 410)
