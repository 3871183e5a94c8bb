"""The description of the server is valid and complete."""

from __future__ import annotations

import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.web.conftest import Client, Connect
from tests.web.fakes import Fakes
from web.application import create_web_app
from web.routing import ROUTES, Scope

PROMISED = """
GET /livez /readyz /startupz /metrics /v1/operators /v1/state/{operator}/{state}/{key} /v1/state/{operator}/{state}
GET /v1/rules /v1/rules/{id} /v1/rules/{id}/history /v1/alerts /v1/openapi.json
PUT /v1/rules/{id}
DELETE /v1/rules/{id}
POST /v1/rules/{id}/rollback
"""


async def described(client: Client, **headers: str) -> dict[str, Any]:
    text: dict[str, Any] = await (await client.get("/v1/openapi.json", headers=headers)).json()
    return text


@pytest.mark.parametrize("guarded", [False, True])
async def test_the_description_is_valid_openapi(behind: Fakes, connect: Connect, guarded: bool) -> None:
    client = await connect(behind.with_tokens(ann=[Scope.READ]) if guarded else behind)
    text = await described(client, Authorization="Bearer ann")
    OpenAPIV31SpecValidator(text).validate()
    assert ("securitySchemes" in text["components"]) == guarded


async def test_what_is_served_is_what_is_described_and_what_was_promised(client: Client, behind: Fakes) -> None:
    text = await described(client)
    shown = {(method.upper(), path) for path, methods in text["paths"].items() for method in methods}
    served = {
        (route.method, route.path) for route in create_web_app(behind.services)[ROUTES].values() if route.documented
    }
    promised = {(line.split()[0], path) for line in PROMISED.strip().splitlines() for path in line.split()[1:]}
    assert shown == served == promised


async def test_every_path_parameter_is_described(client: Client) -> None:
    for path, methods in (await described(client))["paths"].items():
        for operation in methods.values():
            named = {given["name"] for given in operation["parameters"] if given["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


async def test_operation_ids_are_unique(client: Client) -> None:
    paths = (await described(client))["paths"]
    ids = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
