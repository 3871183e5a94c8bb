"""State queries over all workers: a key is asked of its owner, a listing of everybody."""

from __future__ import annotations

import asyncio
import contextvars
import enum
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from app.members import Members
from app.queries import NotFoundElsewhere, OperatorInfo, StateAnswer, StatePage, cursor_of, key_of
from app.state_queries import LocalStateQueries
from models.errors import NotFound, StateUnavailable
from models.time import NO_TIME

#: The Authorization header of the request being answered: the owner must hear it, too.
caller: contextvars.ContextVar[str | None] = contextvars.ContextVar("caller", default=None)
#: On requests from another worker: who may still be asked.
FORWARDED = "X-Famulus-Forwarded"


class Reach(enum.Enum):
    """Who may be asked to answer a request; the values travel in :data:`FORWARDED`."""

    ANYBODY = "anybody"
    #: whoever owns the operator's keys: a worker without the operator has asked one that has it
    OWNERS = "owners"
    #: nobody else
    LOCAL = "local"


_REACH = {None: Reach.ANYBODY, Reach.OWNERS.value: Reach.OWNERS}

reach: contextvars.ContextVar[Reach] = contextvars.ContextVar("reach", default=Reach.ANYBODY)


def reach_of(header: str | None) -> Reach:
    """What the header of a request allows; what is not known allows nothing."""
    return _REACH.get(header, Reach.LOCAL)


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
        if not self._local.has(operator):
            return _answer(await self._ask(self._runner(operator), _path(operator, state, key), {}, Reach.OWNERS))
        partition, here = self._local.place(operator, key)
        url = None if here or reach.get() is Reach.LOCAL else self._members.owner(operator, partition)
        if url is None or self._members.is_own(url):
            return await self._local.get(operator, state, key, partition)
        return _answer(await self._ask(url, _path(operator, state, key), {}, Reach.LOCAL))

    async def list(self, operator: str, state: str, prefix: str, limit: int, cursor: str | None) -> StatePage:
        path, query = _path(operator, state), {"prefix": prefix, "limit": str(limit)}
        if cursor is not None:
            query["cursor"] = cursor_of(cursor)
        if not self._local.has(operator):
            return _page(await self._ask(self._runner(operator), path, query, Reach.OWNERS))
        mine = await self._local.list(operator, state, prefix, limit, cursor)
        if reach.get() is Reach.LOCAL:
            return mine
        others = self._members.others(operator)
        asked = (self._ask(url, path, query, Reach.LOCAL) for url in others)
        pages = await asyncio.gather(*asked, return_exceptions=True)
        answers = list(mine.answers)
        # A page that ended early, for its bytes, says nothing of keys after its end: other workers' keys from there on are for the next page.
        ends = [] if mine.cursor is None else [mine.cursor]
        covered = self._local.partitions(operator)
        for numbers, page in zip(others.values(), pages, strict=True):
            if isinstance(page, StateUnavailable):
                continue
            if isinstance(page, BaseException):
                raise page
            answers += [_answer(item) for item in page["items"]]
            if page["cursor"] is not None:
                ends.append(key_of(page["cursor"]))
            covered |= numbers
        answers.sort(key=lambda answer: answer.key)
        end = min(ends, default=None)
        if end is not None:
            answers = [answer for answer in answers if answer.key <= end]
        if len(answers) > limit:
            answers = answers[:limit]
            end = answers[-1].key
        return StatePage(
            answers=answers,
            cursor=end,
            partial=len(covered) < self._local.count(operator),
        )

    def _runner(self, operator: str) -> str:
        """A worker of another set of jobs, which has the operator."""
        urls = self._members.others(operator) if reach.get() is Reach.ANYBODY else ()
        for url in urls:
            return url
        raise NotFound(f"no operator {operator!r} runs here, nor on another worker")

    async def _ask(self, url: str, path: str, query: dict[str, str], may_ask: Reach) -> Any:
        headers = {FORWARDED: may_ask.value}
        authorization = caller.get()
        if authorization is not None:
            headers["Authorization"] = authorization
        try:
            async with self._session().get(
                URL(url + path, encoded=True),
                params=query,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as answer:
                body = await _whole(answer)
                if answer.status == 404:
                    raise NotFoundElsewhere(str(msgspec.json.decode(body).get("detail", "not found")))
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


def _path(*names: str) -> str:
    return "/v1/state/" + "/".join(quote(name, safe="") for name in names)


def _page(found: dict[str, Any]) -> StatePage:
    cursor = found["cursor"]
    answers = [_answer(item) for item in found["items"]]
    return StatePage(answers, None if cursor is None else key_of(cursor), found["partial"])


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
