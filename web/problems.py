"""Errors as RFC 9457 ``application/problem+json``: what happened, to what, and what to do next."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

from app.alerts import BadCursor
from models.errors import LogError, NotFound, RuleRefused, StateUnavailable, VersionConflict

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class ProblemDetails(msgspec.Struct, rename={"kind": "type"}):
    """The members of RFC 9457; some problems carry more (a refused rule: ``line`` and ``column``)."""

    kind: str
    title: str
    status: int
    detail: str
    instance: str


class Problem(Exception):
    """Raise it from a handler to answer with a problem.

    ``kind`` becomes the URN ``urn:famulus:problem:KIND``; without it the type is ``about:blank``, which means that the
    status says it all.  ``members`` are added to the body.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str | None = None,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = "about:blank" if kind is None else f"urn:famulus:problem:{kind}"
        self.title = title or phrase(status)
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def response(self, instance: str) -> web.Response:
        """The answer; ``instance`` is the path that was asked for."""
        body: dict[str, object] = {
            "type": self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        body |= self.members
        return web.Response(
            status=self.status, body=msgspec.json.encode(body), content_type=CONTENT_TYPE, headers=self.headers
        )


def phrase(status: int) -> str:
    """The usual words for a status."""
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else f"HTTP status {status}"


def problem_of(error: Exception) -> Problem:
    """What to answer when a handler raised.  An error that nobody expected is logged and not shown."""
    match error:
        case Problem():
            return error
        case web.HTTPException():
            return _from_aiohttp(error)
        case RuleRefused():
            return Problem(
                422,
                str(error),
                kind="rule-refused",
                title="Rule refused",
                members={"line": error.line, "column": error.column},
            )
        case VersionConflict():
            members = {} if error.current is None else {"version": error.current}
            return Problem(412, str(error), kind="version-conflict", title="Changed meanwhile", members=members)
        case BadCursor():
            return Problem(400, str(error), kind="bad-cursor", title="Bad cursor")
        case StateUnavailable():
            return Problem(503, str(error), headers={"Retry-After": str(RETRY_AFTER_S)})
        case NotFound():
            return Problem(404, str(error))
        case LogError():
            logger.error("The log refused a request's work: %s", error)
            return Problem(
                503,
                "The log cannot take or give records now; the worker's log says why. Nothing was changed; ask again.",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        case _:
            logger.error("A handler failed", exc_info=error)
            return Problem(500, "The worker failed to answer; its log says why.")


def _from_aiohttp(error: web.HTTPException) -> Problem:
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Problem(
                405, f"This path does not take {error.method}; it takes {allowed}.", headers={"Allow": allowed}
            )
        case web.HTTPRequestEntityTooLarge():
            return Problem(413, "The body is larger than this server takes.")
        case web.HTTPNotFound():
            return Problem(404, "There is no such path; /v1/openapi.json lists those that exist.")
        case _:
            return Problem(error.status, error.reason or phrase(error.status))
