"""Bearer tokens: who may do what."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from models.errors import SettingsError
from models.time import ManualClock
from tests.web.conftest import Client, Connect
from tests.web.fakes import NOW_MS, Fakes
from web.application import create_web_app
from web.auth import Tokens, check_bind
from web.routing import ROUTES, Scope

RULE = {"description": "Big", "active": True, "risk_level": "HIGH", "when": "amount > 10000.0"}
READER, EDITOR, ADMIN = "reader", "editor", "boss"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def guarded(behind: Fakes, connect: Connect) -> Client:
    return await connect(behind.with_tokens(reader=[Scope.READ], editor=[Scope.READ, Scope.RULES], boss=[Scope.ADMIN]))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_every_path_but_the_probes_asks_for_a_token(behind: Fakes, connect: Connect) -> None:
    guarded = behind.with_tokens(reader=[Scope.READ])
    client = await connect(guarded)
    open_paths = set()
    for route in create_web_app(guarded.services)[ROUTES].values():
        path = route.path.replace("{", "").replace("}", "")
        response = await client.request(route.method, path)
        if route.scope is None:
            open_paths.add(route.path)
            continue
        assert response.status == 401, route
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert response.content_type == "application/problem+json"
    assert open_paths == {"/livez", "/readyz", "/startupz", "/signin", "/signout"}


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/table", "/router", "/v1/rules/x/y/z"])
async def test_a_path_that_does_not_exist_tells_strangers_nothing(guarded: Client, path: str) -> None:
    assert (await guarded.get(path)).status == 401
    assert (await guarded.get(path, headers=bearer(READER))).status == 404


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic cmVhZGVyOng=",
        "reader",
        "Bearer reader extra",
        "bearer",
        "Bearer \xff",
    ],
)
async def test_a_wrong_token_is_refused(guarded: Client, value: str) -> None:
    response = await guarded.get("/v1/rules", headers={"Authorization": value})
    assert response.status == 401
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


async def test_the_scheme_is_case_insensitive(guarded: Client) -> None:
    assert (await guarded.get("/v1/rules", headers={"Authorization": "bearer reader"})).status == 200


@pytest.mark.parametrize(("token", "get", "put"), [(READER, 200, 403), (EDITOR, 200, 201), (ADMIN, 200, 201)])
async def test_a_scope_allows_its_own_and_admin_allows_all(guarded: Client, token: str, get: int, put: int) -> None:
    assert (await guarded.get("/v1/rules", headers=bearer(token))).status == get
    response = await guarded.put("/v1/rules/X", json=RULE, headers=bearer(token))
    assert response.status == put
    if put == 403:
        assert 'scope="rules"' in response.headers["WWW-Authenticate"]


async def test_writing_does_not_imply_reading(behind: Fakes, connect: Connect) -> None:
    client = await connect(behind.with_tokens(robot=[Scope.RULES]))
    assert (await client.put("/v1/rules/X", json=RULE, headers=bearer("robot"))).status == 201
    assert (await client.get("/v1/rules", headers=bearer("robot"))).status == 403


async def test_the_audit_line_names_the_token_and_never_its_text(
    behind: Fakes, connect: Connect, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    client = await connect(behind.with_tokens(editor=[Scope.RULES]))
    await client.put("/v1/rules/X", json=RULE, headers=bearer("editor"))
    await client.put("/v1/rules/X", json=RULE, headers=bearer("s3cret"))
    written, refused = (record.getMessage() for record in caplog.records if record.name == "famulus.audit")
    assert written.startswith('audit: principal="editor"')
    assert refused.startswith('audit: principal="anonymous"')
    assert refused.endswith("status=401")
    assert "s3cret" not in caplog.text


def tokens_of(tmp_path: Path, text: str) -> Tokens:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    return Tokens.load(path, ManualClock(NOW_MS))


def test_a_file_of_tokens_is_read_with_scopes_and_expiry(tmp_path: Path) -> None:
    tokens = tokens_of(
        tmp_path,
        f"""
        [[tokens]]
        name = "ann"
        sha256 = "{sha("one")}"
        scopes = ["read", "rules"]
        [[tokens]]
        name = "old"
        sha256 = "{sha("two").upper()}"
        scopes = ["admin"]
        expires = 2023-11-14T22:13:20Z
        [[tokens]]
        name = "new"
        sha256 = "{sha("three")}"
        scopes = ["admin"]
        expires = 2023-11-14T23:13:20.001+01:00
        """,
    )
    found = tokens.find("one")
    assert found is not None
    assert (found.name, found.scopes) == ("ann", frozenset({Scope.READ, Scope.RULES}))
    assert tokens.find("two") is None, "expires says the first instant at which it no longer counts"
    assert tokens.find("three") is not None
    assert tokens.find("four") is None
    assert tokens.find("") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no token"),
        ("tokens = 3", "no token"),
        ("tokens = [3]", "tables"),
        ("[[tokens", "not TOML"),
        ("[[tokens]]\nname = 'a'\nscopes = ['read']", "sha256"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{'g' * 64}'\nscopes = ['read']", "sha256"),
        (f"[[tokens]]\nname = ''\nsha256 = '{'0' * 64}'\nscopes = ['read']", "name"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = []", "scopes"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = ['root']", "scopes"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = [['read']]", "scopes"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = ['read']\nexpires = 2030-01-01", "expires"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = ['read']\nexpires = 2030-01-01T00:00:00", "expires"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = ['read']\ntoken = 's3cret'", "unknown key token"),
        (f"[[tokens]]\nname='a'\nsha256='{'0' * 64}'\nscopes=['read']\n" * 2, "same name"),
    ],
)
def test_a_bad_file_is_refused_by_what_is_wrong_and_shows_no_secret(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match="FAMULUS_TOKENS_FILE") as caught:
        tokens_of(tmp_path, text)
    assert named in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        Tokens.load(tmp_path / "none.toml", ManualClock())


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.0.0.7", "famulus.example", ""])
def test_without_tokens_only_loopback_is_served(bind: str) -> None:
    with pytest.raises(SettingsError, match="FAMULUS_TOKENS_FILE"):
        check_bind(bind, None)
    check_bind(bind, Tokens([], ManualClock()))


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_no_tokens(bind: str) -> None:
    check_bind(bind, None)


async def test_a_person_signs_in_with_a_form_and_the_cookie_is_out_of_reach(guarded: Client) -> None:
    asked = await guarded.get("/", headers={"Accept": "text/html"})
    assert asked.status == 401
    assert asked.content_type == "text/html"
    assert "script-src" not in asked.headers["Content-Security-Policy"]
    refused = await guarded.post("/signin", data={"token": "wrong"})
    assert refused.status == 401
    assert "Set-Cookie" not in refused.headers
    signed = await guarded.post("/signin", data={"token": EDITOR}, allow_redirects=False)
    assert (signed.status, signed.headers["Location"]) == (303, "/")
    cookie = signed.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert (await guarded.get("/", headers={"Accept": "text/html"})).status == 200
    assert (await guarded.put("/v1/rules/X", json=RULE)).status == 201
    await guarded.post("/signout")
    assert (await guarded.get("/v1/rules")).status == 401


@pytest.mark.parametrize(
    ("headers", "status"), [({"Origin": "http://evil.example"}, 403), ({"Content-Type": "text/plain"}, 415)]
)
async def test_no_other_site_signs_a_person_in(guarded: Client, headers: dict[str, str], status: int) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"} | headers
    assert (await guarded.post("/signin", data=f"token={EDITOR}", headers=form)).status == status


async def test_a_header_beats_the_cookie(guarded: Client) -> None:
    await guarded.post("/signin", data={"token": ADMIN})
    assert (await guarded.get("/v1/rules", headers=bearer("wrong"))).status == 401
