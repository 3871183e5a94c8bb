"""Signing in to the console with a token, for a browser cannot send an Authorization header when it opens a page.

The token goes into a cookie that no script and no other site can use.  Served only where tokens are configured.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from aiohttp import hdrs, web

from web import audit
from web.auth import COOKIE, Tokens
from web.problems import Problem
from web.routing import Route
from web.security import read_body

_FORM = "application/x-www-form-urlencoded"
_STYLE = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}
body{min-height:100vh;margin:0;display:grid;place-items:center;background:Canvas;color:CanvasText}
form{width:min(22rem,90vw);display:grid;gap:.75rem}
h1{font-size:1.4rem;margin:0}p{margin:0}
input,button{font:inherit;padding:.6rem .75rem;border-radius:8px;border:1px solid GrayText}
button{background:#2f5bd7;color:#fff;border-color:transparent;cursor:pointer}
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Famulus: sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><main><form method="post" action="/signin"><h1>Famulus</h1><p role="status">{text}</p>
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Sign in</button></form></main></body></html>
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def page(text: str) -> web.Response:
    """The form, as the body of a 401."""
    return web.Response(
        status=401,
        text=_PAGE.format(style=_STYLE, text=html.escape(text)),
        content_type="text/html",
        headers={
            "WWW-Authenticate": 'Bearer realm="famulus"',
            "Cache-Control": "no-store",
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
                "frame-ancestors 'none'"
            ),
        },
    )


def is_browser(request: web.Request) -> bool:
    """Whether a person opened the console, so the form helps more than a problem."""
    return request.method == "GET" and request.path == "/" and "text/html" in request.headers.get(hdrs.ACCEPT, "")


def routes(tokens: Tokens) -> Sequence[Route]:
    async def sign_in(request: web.Request) -> web.StreamResponse:
        if request.content_type != _FORM:
            raise Problem(415, f"Send the form as {_FORM}.", headers={"Accept": _FORM})
        await read_body(request)
        text = str((await request.post()).get("token", "")).strip()
        token = tokens.find(text)
        if token is None:
            return page("That token is unknown or has expired.")
        request[audit.PRINCIPAL] = token.name
        response = web.Response(status=303, headers={"Location": "/"})
        secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
        response.set_cookie(COOKIE, text, httponly=True, samesite="Strict", path="/", secure=secure)
        return response

    async def sign_out(request: web.Request) -> web.StreamResponse:
        response = web.Response(status=303, headers={"Location": "/"})
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
        return response

    return [
        Route(method="POST", path="/signin", handler=sign_in, scope=None, summary="Sign in", documented=False),
        Route(method="POST", path="/signout", handler=sign_out, scope=None, summary="Sign out", documented=False),
    ]
