"""``/v1/rules``: read, write, delete, history and rollback.

Two people who edit a rule at once must notice: a rule's version is its ETag, and a change of a rule that exists must
name, in ``If-Match``, the version that it was made from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import hdrs, web

from models.errors import NotFound, RuleRefused
from models.rules import RiskLevel, Rule, RuleVersion
from models.time import Millis
from web.encoding import answer
from web.paging import CURSOR, cursor_after, limit_of, limit_query, name_after
from web.problems import Problem
from web.routing import Answer, Handler, Query, Route, Scope
from web.security import read_json
from web.services import Services

DEFAULT_LIMIT, MAX_LIMIT = 100, 1_000
_TAG = re.compile(r'(?:W/)?"([0-9]{1,10})"')


class RuleAnswer(msgspec.Struct):
    """A rule as it runs.  ``fired`` and ``errors`` count on this worker since it started."""

    rule_id: str
    description: str
    active: bool
    risk_level: RiskLevel
    when: str
    version: int
    effective_from: Millis | None
    accepted_ms: Millis
    fired: int
    errors: int


class RulesAnswer(msgspec.Struct):
    """Rules in the order of their ids."""

    rules: list[RuleAnswer]
    cursor: str | None


class HistoryAnswer(msgspec.Struct):
    """Versions, oldest first; ``rule`` is ``null`` in a version that deleted the rule."""

    rule_id: str
    versions: list[RuleVersion]
    cursor: str | None


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """The version whose content the rule gets again, as a new version."""

    to: int


_HAVE = Query("If-Match", 'The ETag of the version that the change was made from, such as "3".')
_ETAG = {"ETag": "The rule's version."}


def routes(services: Services) -> Sequence[Route]:
    views = _Views(services)

    def route(method: str, path: str, handler: Handler, summary: str, **more: Any) -> Route:
        scope = Scope.READ if method == "GET" else Scope.RULES
        return Route(method=method, path=path, handler=handler, scope=scope, summary=summary, tag="rules", **more)

    page = (limit_query(DEFAULT_LIMIT, MAX_LIMIT), CURSOR)
    return [
        route(
            "GET",
            "/v1/rules",
            views.list,
            "Rules with their versions and counts",
            query=page,
            answers={200: Answer("A page of rules.", RulesAnswer)},
            problems=(400,),
        ),
        route(
            "GET",
            "/v1/rules/{id}",
            views.get,
            "One rule",
            answers={200: Answer("The rule.", RuleAnswer, _ETAG)},
            problems=(404,),
        ),
        route(
            "PUT",
            "/v1/rules/{id}",
            views.put,
            "Create a rule or change it",
            headers=(_HAVE,),
            body=Rule,
            answers={
                200: Answer("Changed.", RuleAnswer, _ETAG),
                201: Answer("Created.", RuleAnswer, _ETAG | {"Location": "The rule's address."}),
            },
            problems=(400, 408, 412, 413, 415, 422, 428, 503),
        ),
        route(
            "DELETE",
            "/v1/rules/{id}",
            views.delete,
            "Delete a rule; its history stays",
            headers=(_HAVE,),
            answers={204: Answer("Deleted.")},
            problems=(404, 412, 503),
        ),
        route(
            "GET",
            "/v1/rules/{id}/history",
            views.history,
            "Every version of a rule",
            query=page,
            answers={200: Answer("A page of versions.", HistoryAnswer)},
            problems=(400, 404),
        ),
        route(
            "POST",
            "/v1/rules/{id}/rollback",
            views.rollback,
            "Make a rule say again what an earlier version said",
            headers=(_HAVE,),
            body=Rollback,
            answers={200: Answer("The new version.", RuleAnswer, _ETAG)},
            problems=(400, 404, 408, 412, 413, 415, 422, 503),
        ),
    ]


class _Views:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._rules = services.rules

    async def list(self, request: web.Request) -> web.StreamResponse:
        limit, after = limit_of(request, DEFAULT_LIMIT, MAX_LIMIT), name_after(request) or ""
        rules = sorted((step for step in await self._rules.list() if step.rule_id > after), key=lambda s: s.rule_id)
        page = [self._answer(step) for step in rules[:limit]]
        return answer(RulesAnswer(page, cursor_after(rules[limit - 1].rule_id) if len(rules) > limit else None))

    async def get(self, request: web.Request) -> web.StreamResponse:
        return self._one(await self._rules.get(request.match_info["id"]))

    async def put(self, request: web.Request) -> web.StreamResponse:
        rule_id = request.match_info["id"]
        rule = _rule(rule_id, await read_json(request))
        try:
            current = await self._rules.get(rule_id)
        except NotFound:
            if hdrs.IF_MATCH in request.headers:
                detail = f"There is no rule {rule_id!r} to change; without If-Match it is created."
                raise Problem(412, detail) from None
            made = await self._rules.put(rule, expected_version=0)
            return self._one(made, status=201, headers={"Location": f"/v1/rules/{quote(rule_id, safe='')}"})
        if request.headers.get(hdrs.IF_NONE_MATCH) == "*":
            raise Problem(412, f"The rule {rule_id!r} exists already.", members={"version": current.version})
        if hdrs.IF_MATCH not in request.headers:
            raise Problem(
                428,
                f"The rule {rule_id!r} exists: say in If-Match which version the change was made from "
                f'(its ETag is "{current.version}" now).',
                members={"version": current.version},
            )
        return self._one(await self._rules.put(rule, expected_version=_expected(request)))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        await self._rules.delete(request.match_info["id"], expected_version=_expected(request))
        return web.Response(status=204)

    async def history(self, request: web.Request) -> web.StreamResponse:
        limit, after = limit_of(request, DEFAULT_LIMIT, MAX_LIMIT), name_after(request) or "0"
        if not (after.isascii() and after.isdigit() and len(after) <= 10):
            raise Problem(400, "The cursor is of another list; ask again without it.", kind="bad-cursor")
        rule_id = request.match_info["id"]
        steps = [step for step in await self._rules.history(rule_id) if step.version > int(after)]
        cursor = cursor_after(str(steps[limit - 1].version)) if len(steps) > limit else None
        return answer(HistoryAnswer(rule_id, steps[:limit], cursor))

    async def rollback(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request)
        try:
            to = msgspec.convert(body, Rollback).to
        except msgspec.ValidationError as error:
            raise Problem(400, f'The body must be {{"to": VERSION}}: {error}.') from None
        rule_id = request.match_info["id"]
        return self._one(await self._rules.rollback(rule_id, to=to, expected_version=_expected(request)))

    def _one(self, step: RuleVersion, *, status: int = 200, headers: Mapping[str, str] = {}) -> web.Response:
        return answer(self._answer(step), status=status, headers={"ETag": f'"{step.version}"', **headers})

    def _answer(self, step: RuleVersion) -> RuleAnswer:
        if (rule := step.rule) is None:
            raise NotFound(
                f"The rule {step.rule_id!r} was deleted in version {step.version}; its history is still there."
            )
        counts = self._services.rule_stats().get(step.rule_id, {})
        return RuleAnswer(
            rule_id=step.rule_id,
            description=rule.description,
            active=rule.active,
            risk_level=rule.risk_level,
            when=rule.when,
            version=step.version,
            effective_from=rule.effective_from,
            accepted_ms=step.accepted_ms,
            fired=counts.get("fired", 0),
            errors=counts.get("errors", 0),
        )


def _rule(rule_id: str, body: object) -> Rule:
    """The rule in the body; it may leave out its id, but not have another one."""
    if not isinstance(body, dict):
        raise Problem(400, "The body must be a rule: a JSON object.")
    if body.setdefault("rule_id", rule_id) != rule_id:
        raise RuleRefused(f"rule_id is {body['rule_id']!r} in the body and {rule_id!r} in the path; leave it out.")
    try:
        return msgspec.convert(body, Rule)
    except msgspec.ValidationError as error:
        raise RuleRefused(str(error)) from None


def _expected(request: web.Request) -> int | None:
    """The version in If-Match; ``None`` without the header and for ``*``, which any version satisfies."""
    text = request.headers.get(hdrs.IF_MATCH, "*").strip()
    if text == "*":
        return None
    if (tag := _TAG.fullmatch(text)) is None:
        raise Problem(412, f'If-Match must be one ETag of the rule, such as "3", or *; it is {text!r}.')
    return int(tag[1])
