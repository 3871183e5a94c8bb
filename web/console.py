"""The console: a few files from a fixed table, read once, so no path leads out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from aiohttp import hdrs, web

from web.routing import Handler, Route, Scope

_FOLDER = Path(__file__).parent / "static"
_SCRIPT, _STYLE = "text/javascript", "text/css"
#: path -> (file, content type)
FILES = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", _STYLE),
    "/console.js": ("console.js", _SCRIPT),
    "/api.js": ("api.js", _SCRIPT),
    "/dom.js": ("dom.js", _SCRIPT),
    "/format.js": ("format.js", _SCRIPT),
    "/alerts.js": ("alerts.js", _SCRIPT),
    "/rules.js": ("rules.js", _SCRIPT),
    "/editor.js": ("editor.js", _SCRIPT),
    "/worker.js": ("worker.js", _SCRIPT),
    "/jobs.js": ("jobs.js", _SCRIPT),
    "/lookup.js": ("lookup.js", _SCRIPT),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}


def routes() -> Sequence[Route]:
    return [
        Route(
            method="GET",
            path=path,
            handler=_handler((_FOLDER / name).read_bytes(), content_type),
            scope=Scope.READ,
            summary=f"The console's {name}",
            documented=False,
        )
        for path, (name, content_type) in FILES.items()
    ]


def _handler(body: bytes, content_type: str) -> Handler:
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"', "Cache-Control": "no-cache"}

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.headers.get(hdrs.IF_NONE_MATCH) == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    return handle
