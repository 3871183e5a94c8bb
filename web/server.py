"""The web server as a service in place of Faust's own, whose ``/table`` and ``/router`` are open to all."""

from __future__ import annotations

import asyncio
import errno
from typing import Any, Protocol

from aiohttp import hdrs, web
from mode import Service

from app.settings import Settings
from models.errors import SettingsError
from models.time import SystemClock
from web.application import create_web_app
from web.auth import Tokens, check_bind
from web.problems import Problem
from web.services import Services, Worker

#: A connection that has not sent a whole request head within this time, or sends no further one, is closed.
IDLE_TIMEOUT_S = 15.0
#: A body that nobody read is waited for this long before the connection closes.
LINGERING_S = 1.0
#: Requests at work get this long when the worker stops.
SHUTDOWN_S = 0.4
MAX_CONNECTIONS = 512

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


class Conf(Protocol):
    """The part of Faust's settings that the worker's own command line can change."""

    web_bind: str
    web_port: int


class Application(Worker, Protocol):
    """The Faust application that the server belongs to."""

    settings: Settings
    conf: Conf


class WebServer(Service):
    """Serves :func:`web.application.create_web_app` on ``app.conf.web_bind`` and ``app.conf.web_port``.

    Starting raises :class:`models.errors.SettingsError`, which names the variable, when the address is taken or cannot
    be bound, when the tokens file is wrong, and when strangers could reach a server without tokens.
    """

    def __init__(self, app: Application, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.app = app
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port listened on: the configured one, or the one the system chose for port 0."""
        if self._listener is None or not self._listener.sockets:
            raise RuntimeError("The web server is not listening; start it first.")
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def on_start(self) -> None:
        bind, port = self.app.conf.web_bind, self.app.conf.web_port
        path = self.app.settings.tokens_file
        tokens = None if path is None else Tokens.load(path, SystemClock())
        check_bind(bind, tokens)
        services = Services.of(self.app, bind=bind, tokens=tokens)
        runner = web.AppRunner(create_web_app(services), access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            self._listener = await self._listen(runner, bind, port)
        except OSError as error:
            await runner.cleanup()
            raise _cannot_listen(bind, port, error) from None
        self._runner = runner
        host = f"[{bind}]" if ":" in bind else bind
        self.log.info("Console: http://%s:%d/", host, self.port)

    async def on_stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _listen(self, runner: web.AppRunner, bind: str, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        server = runner.server
        if server is None:
            raise RuntimeError("The runner has no server; set it up first.")

        # No access log: the audit lines say who changed what, and probes would drown the rest.
        options: dict[str, Any] = {
            "keepalive_timeout": IDLE_TIMEOUT_S,
            "lingering_time": LINGERING_S,
            "access_log": None,
            # A body of a few bytes must not become one of many gigabytes.
            "auto_decompress": False,
        }

        def accept() -> asyncio.BaseProtocol:
            if len(server.connections) >= MAX_CONNECTIONS:
                return _Busy()
            return _Connection(server, loop=loop, **options)

        return await loop.create_server(accept, bind, port, backlog=128)


class _Connection(web.RequestHandler):
    """aiohttp's connection, with its answer to what is no HTTP written as the rest of our errors are."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        detail = "The request is not HTTP as this server takes it." if status < 500 else "The worker failed to answer."
        response = Problem(status, detail, headers={hdrs.CONNECTION: "close"}).response("")
        response.force_close()
        return response


class _Busy(asyncio.Protocol):
    """Sends a connection over the limit away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(_BUSY)
        transport.close()


def _cannot_listen(bind: str, port: int, error: OSError) -> SettingsError:
    """What to do about it, by the variable that is at fault."""
    if error.errno == errno.EADDRINUSE:
        return SettingsError(
            f"FAMULUS_WEB_PORT={port}: the port is taken on {bind}; stop the program that has it (another worker?) or "
            "choose another port"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return SettingsError(f"FAMULUS_WEB_PORT={port}: not allowed to use this port; choose one above 1023")
    return SettingsError(f"FAMULUS_WEB_BIND={bind}: cannot listen there ({error.strerror or error}); use 127.0.0.1")
