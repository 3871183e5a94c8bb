"""What every request must pass: a deadline, the right Host, no foreign origin; and what every response carries.

The checks are one middleware, because aiohttp's way from one to the next costs more than any of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Set
from functools import lru_cache

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from app.settings import is_loopback
from web import audit
from web.problems import Problem, problem_of

MAX_BODY_BYTES = 64 << 10
#: A whole request, from its head read to its last response byte handed to the kernel.
REQUEST_TIMEOUT_S = 30.0
#: A body must have arrived within this time.
BODY_TIMEOUT_S = 10.0

_READS = {hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: the security headers of every response, unless the handler set its own."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "famulus"


def middleware(bind: str) -> Middleware:
    """For a server bound to this address."""
    # On loopback, only requests that name this machine: a foreign name that resolves here is DNS rebinding.
    allowed = {"localhost", "127.0.0.1", "::1", bind.lower()} if is_loopback(bind) else None

    @web.middleware
    async def answer_in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn errors into problems, write the audit line, and give nobody more than the deadline.

        The response is written here, so that a client that does not read it cannot keep the handler's memory for ever.
        """
        response: web.StreamResponse
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                try:
                    _check_host(request, allowed)
                    _check_origin(request)
                    response = await handler(request)
                except asyncio.CancelledError:
                    raise
                except Exception as error:
                    response = problem_of(error).response(request.rel_url.raw_path)
                audit.record(request, response.status)
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("The request took longer than its deadline") from None
        return response

    return answer_in_time


def _check_host(request: web.Request, allowed: Set[str] | None) -> None:
    if allowed is not None and _host_of(request.headers.get(hdrs.HOST, "")) not in allowed:
        raise Problem(421, "This server answers only to localhost; the request's Host header names something else.")


def _check_origin(request: web.Request) -> None:
    """A change must come from this site or from no browser at all, and its body must be JSON (or the sign-in form)."""
    if request.method not in _READS:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and not _same_origin(origin, request.headers.get(hdrs.HOST, "")):
            raise Problem(403, "Changes are taken from this server's own pages only.")


async def read_json(request: web.Request) -> object:
    """The body as JSON.

    Problems: 415 for another content type (no form of a foreign page can send this one), 408 for a body that trickles,
    413 for one too large, 400 for one that is no JSON.
    """
    if request.content_type != "application/json":
        raise Problem(415, "Send the body as application/json.", headers={"Accept": "application/json"})
    body = await read_body(request)
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise Problem(400, "The body is nested too deeply.") from None
    return value


async def read_body(request: web.Request) -> bytes:
    """The body, all of it, in time."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Problem(408, "The body did not arrive in time.", headers={"Connection": "close"}) from None


@lru_cache(64)  # of the same few names, and it takes as long as finding a key's state
def _host_of(header: str) -> str | None:
    """The host of a Host header without its port, lower case; ``None`` for a header that is no host."""
    try:
        host = URL(f"http://{header}").host if header and not set("/?#@\\") & set(header) else None
    except ValueError:
        return None
    if host is None:
        return None
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def _same_origin(origin: str, host: str) -> bool:
    """Scheme aside: a proxy that ends TLS makes an https page talk to an http server."""
    _, separator, authority = origin.partition("://")
    return bool(separator) and authority.lower() == host.lower()
