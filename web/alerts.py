"""``GET /v1/alerts``: the most recent alerts of this worker."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import hdrs, web

from models.alerts import Alert
from web.encoding import answer
from web.paging import CURSOR, limit_of, limit_query
from web.routing import Answer, Query, Route, Scope
from web.services import Services

DEFAULT_LIMIT, MAX_LIMIT = 50, 500


class AlertsAnswer(msgspec.Struct):
    """Newest first; ``cursor`` asks for older ones and is ``null`` where the worker remembers none."""

    alerts: Sequence[Alert]
    cursor: str | None


def routes(services: Services) -> Sequence[Route]:
    async def alerts(request: web.Request) -> web.StreamResponse:
        limit, query = limit_of(request, DEFAULT_LIMIT, MAX_LIMIT), request.query
        # The tag is of the feed, and the cache's key is the whole address, filters included.
        headers = {"ETag": f'"{services.alerts.version}"', "Cache-Control": "private, no-cache"}
        if request.headers.get(hdrs.IF_NONE_MATCH) == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        page = services.alerts.recent(query.get("user_id"), query.get("rule_id"), limit, query.get("cursor"))
        return answer(AlertsAnswer(page.alerts, page.cursor), headers=headers)

    return [
        Route(
            method="GET",
            path="/v1/alerts",
            handler=alerts,
            scope=Scope.READ,
            summary="Recent alerts, newest first",
            tag="alerts",
            query=(
                Query("user_id", "Only alerts of this user."),
                Query("rule_id", "Only alerts of this rule."),
                limit_query(DEFAULT_LIMIT, MAX_LIMIT),
                CURSOR,
            ),
            headers=(Query("If-None-Match", "The ETag of the answer at hand: 304 if nothing has happened since."),),
            answers={
                200: Answer("A page of alerts.", AlertsAnswer, {"ETag": "Changes with every new alert."}),
                304: Answer("No alert since the one with this ETag."),
            },
            problems=(400,),
        )
    ]
