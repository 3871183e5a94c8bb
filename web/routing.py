"""Routes as data: what is served, who may ask, and what OpenAPI says of it come from the same line."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Scope(enum.Enum):
    """What a token may do; ``ADMIN`` may do everything."""

    READ = "read"
    RULES = "rules"
    SAVEPOINTS = "savepoints"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter; ``schema`` is JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is no problem.  ``body`` is the type that is sent as JSON, a content type, or ``None``."""

    description: str
    body: type | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    ``path`` is written as OpenAPI does, ``/v1/rules/{id}``.  ``scope`` is ``None`` where no token is needed.
    ``problems`` are the statuses of the problems that are particular to this route.  An undocumented route serves the
    console.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    summary: str
    tag: str = ""
    query: Sequence[Query] = ()
    headers: Sequence[Query] = ()
    body: type | None = None
    answers: Mapping[int, Answer] = field(default_factory=dict)
    problems: Sequence[int] = ()
    documented: bool = True

    @property
    def pattern(self) -> str:
        """The path as aiohttp takes it.  The last parameter of a state path takes slashes and line ends: keys may hold them."""
        return re.sub(
            r"\{(\w+)\}", lambda match: f"{{{match[1]}:{'(?s:.+)' if match[1] == 'key' else '[^/]+'}}}", self.path
        )


Table = dict[web.AbstractRoute, Route]
ROUTES: web.AppKey[Table] = web.AppKey("routes", dict)


def install(app: web.Application, routes: Sequence[Route]) -> None:
    """Add the routes; a GET answers HEAD, too."""
    table: Table = {}
    for route in routes:
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            table[app.router.add_route(method, route.pattern, route.handler)] = route
    app[ROUTES] = table


def route_of(request: web.Request) -> Route | None:
    """The route that answers this request; ``None`` for a path or method that does not exist."""
    return request.app[ROUTES].get(request.match_info.route)
