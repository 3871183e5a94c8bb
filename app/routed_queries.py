"""State queries over all workers: a key is asked of its owner, a listing of everybody."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from app.members import Members
from app.queries import OperatorInfo, StateAnswer, StatePage, cursor_of
from app.state_queries import LocalStateQueries
from models.errors import NotFound, StateUnavailable
from models.time import NO_TIME

#: The Authorization header of the request being answered: the owner must hear it, too.
caller: contextvars.ContextVar[str | None] = contextvars.ContextVar("caller", default=None)
#: Set on requests from another worker, which are answered from local state only.
FORWARDED = "X-Famulus-Forwarded"
forwarded: contextvars.ContextVar[bool] = contextvars.ContextVar("forwarded", default=False)

TIMEOUT_S = 5.0
MAX_ANSWER = 64 << 20


class RoutedStateQueries:
    """Answers from this worker where it owns the key, else from the worker that does."""

    def __init__(
        self, local: LocalStateQueries, members: Members, session: Callable[[], aiohttp.ClientSession]
    ) -> None:
        self._local = local
        self._members = members
        self._session = session

    def operators(self) -> list[OperatorInfo]:
        return self._local.operators()

    async def get(self, operator: str, state: str, key: str) -> StateAnswer:
        partition, here = self._local.place(operator, key)
        url = None if here or forwarded.get() else self._members.owner(operator, partition)
        if url is None or self._members.is_own(url):
            return await self._local.get(operator, state, key, partition)
        found = await self._ask(
            url, f"/v1/state/{quote(operator, safe='')}/{quote(state, safe='')}/{quote(key, safe='')}", {}
        )
        return _answer(found)

    async def list(self, operator: str, state: str, prefix: str, limit: int, cursor: str | None) -> StatePage:
        mine = await self._local.list(operator, state, prefix, limit, cursor)
        if forwarded.get():
            return mine
        path = f"/v1/state/{quote(operator, safe='')}/{quote(state, safe='')}"
        query = {"prefix": prefix, "limit": str(limit)}
        if cursor is not None:
            query["cursor"] = cursor_of(cursor)
        others = self._members.others(operator)
        pages = await asyncio.gather(*(self._ask(url, path, query) for url in others), return_exceptions=True)
        answers, more = list(mine.answers), mine.cursor is not None
        covered = self._local.partitions(operator)
        for numbers, page in zip(others.values(), pages, strict=True):
            if isinstance(page, StateUnavailable):
                continue
            if isinstance(page, BaseException):
                raise page
            answers += [_answer(item) for item in page["items"]]
            more = more or page["cursor"] is not None
            covered |= numbers
        answers.sort(key=lambda answer: answer.key)
        more = more or len(answers) > limit
        answers = answers[:limit]
        return StatePage(
            answers=answers,
            cursor=answers[-1].key if more and answers else None,
            partial=len(covered) < self._local.count(operator),
        )

    async def _ask(self, url: str, path: str, query: dict[str, str]) -> Any:
        headers = {FORWARDED: "1"}
        authorization = caller.get()
        if authorization is not None:
            headers["Authorization"] = authorization
        try:
            async with self._session().get(
                url + path, params=query, headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            ) as answer:
                body = await _whole(answer)
                if answer.status == 404:
                    raise NotFound(str(msgspec.json.decode(body).get("detail", "not found")))
                if answer.status != 200:
                    raise StateUnavailable(
                        f"the worker that owns the key answered {answer.status}; ask again in a moment"
                    )
                return msgspec.json.decode(body)
        except (TimeoutError, aiohttp.ClientError, OSError, msgspec.DecodeError) as exc:
            raise StateUnavailable(
                f"the worker that owns the key does not answer ({type(exc).__name__}); ask again in a moment"
            ) from exc


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    """The body, all of it: ``content.read`` gives what has arrived."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise StateUnavailable(
                f"the worker that owns the key answered with more than {MAX_ANSWER} bytes; ask for fewer keys"
            )
    return bytes(body)


def _answer(item: dict[str, Any]) -> StateAnswer:
    return StateAnswer(
        operator=item["operator"],
        state=item["state"],
        key=item["key"],
        value=item["value"],
        partition=item["partition"],
        source_offset=item["source_offset"],
        watermark=NO_TIME if item["watermark"] is None else item["watermark"],
    )
