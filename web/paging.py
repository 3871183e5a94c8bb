"""``limit`` and ``cursor`` of lists."""

from __future__ import annotations

from aiohttp import web

from app.queries import cursor_of, key_of
from web.problems import Problem
from web.routing import Query


def limit_query(default: int, maximum: int) -> Query:
    return Query(
        "limit",
        "Most entries to answer with.",
        {"type": "integer", "minimum": 1, "maximum": maximum, "default": default},
    )


CURSOR = Query("cursor", "Where to go on: the cursor of the page before.")


def limit_of(request: web.Request, default: int, maximum: int) -> int:
    """The ``limit`` asked for; a problem 400 unless it is a whole number from 1 to ``maximum``."""
    text = request.query.get("limit")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= maximum):
        raise Problem(400, f"limit must be a whole number from 1 to {maximum}.", kind="bad-limit", title="Bad limit")
    return int(text)


def cursor_after(name: str | None) -> str | None:
    """The cursor of a page in name order that ended with ``name``."""
    return None if name is None else cursor_of(name)


def name_after(request: web.Request) -> str | None:
    """The name that the page must come after, from ``cursor``; a problem 400 for a cursor that is none of ours."""
    cursor = request.query.get("cursor")
    if cursor is None:
        return None
    try:
        return key_of(cursor)
    except ValueError:
        raise Problem(
            400,
            "The cursor is not one that this server gave out; ask again without it.",
            kind="bad-cursor",
            title="Bad cursor",
        ) from None
