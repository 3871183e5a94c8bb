"""``GET /v1/state/...``: keyed state by name, one key or a page of keys."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import hdrs, web

from app.queries import NotFoundElsewhere, StateAnswer, StatePage
from app.routed_queries import FORWARDED, caller, reach, reach_of
from models.errors import NotFound
from models.time import NO_TIME, Millis
from web.encoding import answer, encode, plain
from web.paging import CURSOR, cursor_after, limit_of, limit_query, name_after
from web.problems import Problem
from web.routing import Answer, Query, Route, Scope
from web.services import Services

DEFAULT_LIMIT, MAX_LIMIT = 50, 200
#: A page ends early when it has this many bytes: one key may hold thousands of entries.
PAGE_BYTES = 1 << 20


class StateValue(msgspec.Struct):
    """A key's value; it contains every source record before ``source_offset`` of the partition.

    ``value`` is whatever the state holds: an object, a list, a number.  ``watermark`` is event time, ``null`` before
    the first one.
    """

    operator: str
    state: str
    key: str
    value: object
    partition: int
    source_offset: int
    watermark: Millis | None


class StatePageAnswer(msgspec.Struct):
    """Keys in ascending order.  ``partial`` says that a partition is being recovered, so keys may be missing."""

    operator: str
    state: str
    items: list[StateValue]
    cursor: str | None
    partial: bool


def routes(services: Services) -> Sequence[Route]:
    async def one(request: web.Request) -> web.StreamResponse:
        names = request.match_info
        operator, state = names["operator"], names["state"]
        _tell_who_asks(request)
        try:
            found = await services.queries.get(operator, state, names["key"])
        except NotFoundElsewhere:
            raise
        except NotFound:
            _must_exist(services, operator, state)
            raise
        return answer(_value(found))

    async def page(request: web.Request) -> web.StreamResponse:
        operator, state = request.match_info["operator"], request.match_info["state"]
        limit, cursor = limit_of(request, DEFAULT_LIMIT, MAX_LIMIT), name_after(request)
        _tell_who_asks(request)
        try:
            found = await services.queries.list(operator, state, request.query.get("prefix", ""), limit, cursor)
        except NotFoundElsewhere:
            raise
        except NotFound:
            _must_exist(services, operator, state)
            raise
        items, last = _within(found, PAGE_BYTES)
        body = {
            "operator": operator,
            "state": state,
            "items": items,
            "cursor": cursor_after(last),
            "partial": found.partial,
        }
        return answer(body)

    return [
        Route(
            method="GET",
            path="/v1/state/{operator}/{state}/{key}",
            handler=one,
            scope=Scope.READ,
            summary="The value of one key",
            tag="state",
            answers={200: Answer("The value, and how fresh it is.", StateValue)},
            problems=(404, 503),
        ),
        Route(
            method="GET",
            path="/v1/state/{operator}/{state}",
            handler=page,
            scope=Scope.READ,
            summary="Keys and values in key order",
            tag="state",
            query=(
                Query("prefix", "Only keys that start with this text."),
                limit_query(DEFAULT_LIMIT, MAX_LIMIT),
                CURSOR,
            ),
            answers={200: Answer("A page; it may be shorter than the limit where values are large.", StatePageAnswer)},
            problems=(400, 404, 503),
        ),
    ]


def _tell_who_asks(request: web.Request) -> None:
    """What a query to another worker must carry on; each request has a context of its own."""
    caller.set(request.headers.get(hdrs.AUTHORIZATION))
    reach.set(reach_of(request.headers.get(FORWARDED)))


def _must_exist(services: Services, operator: str, state: str) -> None:
    """A problem 404 that says what exists.  It asks every operator, so only after something was not found."""
    operators = {info.uid: info for info in services.queries.operators()}
    if operator not in operators:
        known = sorted(operators)
        raise Problem(
            404,
            f"There is no operator {operator!r}; there are: {', '.join(known) or 'none'}.",
            kind="unknown-operator",
            title="Unknown operator",
            members={"operators": known},
        )
    states = sorted(info.name for info in operators[operator].states)
    if state not in states:
        raise Problem(
            404,
            f"The operator {operator!r} has no state {state!r}; it has: {', '.join(states) or 'none'}.",
            kind="unknown-state",
            title="Unknown state",
            members={"states": states},
        )


def _value(found: StateAnswer) -> StateValue:
    watermark = None if found.watermark == NO_TIME else found.watermark
    value = plain(found.value)
    return StateValue(found.operator, found.state, found.key, value, found.partition, found.source_offset, watermark)


def _within(page: StatePage, size: int) -> tuple[list[msgspec.Raw], str | None]:
    """The page's items encoded, as many as fit ``size`` bytes but at least one, and the key that the next page follows.

    Runs in one go: the values are the live ones, and the next record may change them.
    """
    items: list[msgspec.Raw] = []
    used = 0
    last: str | None = None
    for found in page.answers:
        item = encode(_value(found))
        if items and used + len(item) > size:
            return items, last
        items.append(msgspec.Raw(item))
        used += len(item)
        last = found.key
    return items, page.cursor
