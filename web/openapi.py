"""``GET /v1/openapi.json``: OpenAPI 3.1, made from the routes, so it cannot tell another story than the server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import web

from web.encoding import answer
from web.problems import CONTENT_TYPE, ProblemDetails, phrase
from web.routing import Answer, Query, Route, Scope

_REF = "#/components/schemas/{name}"
#: What any route may answer besides its own problems.
_EVERYWHERE = (421, 500)


def route(routes: Sequence[Route], *, authenticated: bool) -> Route:
    """The route that describes ``routes`` and itself."""
    text: dict[str, Any] = {}

    async def openapi(request: web.Request) -> web.StreamResponse:
        return answer(text)

    own = Route(
        method="GET",
        path="/v1/openapi.json",
        handler=openapi,
        scope=Scope.READ,
        summary="This description",
        tag="meta",
        answers={200: Answer("OpenAPI 3.1.", "application/json")},
    )
    text |= document([*routes, own], authenticated=authenticated)
    return own


def document(routes: Sequence[Route], *, authenticated: bool) -> dict[str, Any]:
    """The description of all documented routes."""
    documented = [entry for entry in routes if entry.documented]
    types: list[type] = [ProblemDetails]
    for entry in documented:
        bodies = [entry.body, *(given.body for given in entry.answers.values())]
        types += [body for body in bodies if isinstance(body, type) and body not in types]
    schemas, components = msgspec.json.schema_components(types, schema_hook=_anything, ref_template=_REF)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for entry in documented:
        paths.setdefault(entry.path, {})[entry.method.lower()] = _operation(entry, schema_of, authenticated)
    text: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Famulus",
            "version": version("famulus"),
            "summary": "State, rules, alerts and health of a worker",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if authenticated:
        text["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return text


def _operation(entry: Route, schema_of: dict[type, dict[str, Any]], authenticated: bool) -> dict[str, Any]:
    needs_token = authenticated and entry.scope is not None
    problems = sorted({*entry.problems, *_EVERYWHERE, *((401, 403) if needs_token else ())})
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{entry.method.lower()}{entry.path}").strip("_"),
        "summary": entry.summary,
        "tags": [entry.tag],
        "parameters": [
            *(_parameter("path", Query(name, "")) for name in re.findall(r"\{(\w+)\}", entry.path)),
            *(_parameter("query", query) for query in entry.query),
            *(_parameter("header", header) for header in entry.headers),
        ],
        "responses": {str(status): _response(given, schema_of) for status, given in sorted(entry.answers.items())}
        | {str(status): _problem(status) for status in problems if status not in entry.answers},
    }
    if entry.body is not None:
        content = {"application/json": {"schema": schema_of[entry.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    if needs_token and entry.scope is not None:
        operation["security"] = [{"token": []}]
        operation["description"] = f"Needs a token with the scope `{entry.scope.value}`."
    return operation


def _parameter(place: str, query: Query) -> dict[str, Any]:
    parameter: dict[str, Any] = {"name": query.name, "in": place, "schema": dict(query.schema)}
    if query.description:
        parameter["description"] = query.description
    if place == "path":
        parameter["required"] = True
    return parameter


def _response(given: Answer, schema_of: dict[type, dict[str, Any]]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": given.description}
    if isinstance(given.body, str):
        response["content"] = {given.body: {}}
    elif given.body is not None:
        response["content"] = {"application/json": {"schema": schema_of[given.body]}}
    if given.headers:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in given.headers.items()
        }
    return response


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name=ProblemDetails.__name__)}
    return {"description": phrase(status), "content": {CONTENT_TYPE: {"schema": schema}}}


def _anything(kind: type) -> dict[str, Any]:
    """Schema of what msgspec has no words for: an ``object`` is any JSON value."""
    if kind is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError(f"{kind} has no JSON Schema; give the route another type")
