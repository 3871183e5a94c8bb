"""A typed client for the state of a running Famulus: what Flink's ``QueryableStateClient`` was.

    async with StateClient("http://127.0.0.1:6066") as client:
        answer = await client.get("profiles", "user-counts", "user123", int)
        print(answer.value, answer.source_offset)

Any worker answers for any key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from models.errors import FamulusError, NotFound, StateUnavailable
from models.time import Millis

T = TypeVar("T")

#: between two tries while a partition is being recovered
_RETRY_S = 0.1
#: of one request: as long as a worker takes at most
_REQUEST_S = 30.0
#: what decoding raises, whatever it was that answered
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class QueryRefused(FamulusError):
    """The worker refused the query; the text says why.  ``status`` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class StateValue(msgspec.Struct, Generic[T], frozen=True):
    """A key's value.  It contains every record of source partition ``partition`` before ``source_offset``; times are event times in ms."""

    key: str
    value: T
    partition: int
    source_offset: int
    watermark: Millis | None


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    cursor: str | None = None
    partial: bool = False


class StateClient:
    """Asks the worker at ``url``.

    ``token``: a bearer token, where the worker wants one.  ``patience``: how long a query is repeated while the key's partition is being
    recovered.  Raises from every method: :class:`models.errors.NotFound` for an operator, state or key that is not there,
    :class:`models.errors.StateUnavailable` when patience is over, :class:`QueryRefused` for everything else.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:6066",
        *,
        token: str | None = None,
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience_s = patience.total_seconds()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> StateClient:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=_REQUEST_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, operator: str, state: str, key: str, of: type[T]) -> StateValue[T]:
        """The value of a key, as ``of`` (a msgspec Struct, dataclass or built-in)."""
        body = await self._ask(f"/v1/state/{_part(operator)}/{_part(state)}/{_part(key)}", {})
        return _decoded(body, of)

    async def find(self, operator: str, state: str, key: str, of: type[T]) -> T | None:
        """Only the value, ``None`` for a key that has none; an unknown operator or state gives ``None``, too."""
        try:
            return (await self.get(operator, state, key, of)).value
        except NotFound:
            return None

    async def list(self, operator: str, state: str, of: type[T], *, prefix: str = "") -> AsyncIterator[StateValue[T]]:
        """Keys that start with ``prefix``, in ascending order, with their values, over all workers.

        Raises :class:`models.errors.StateUnavailable` if a worker did not answer, so that keys would be missing.
        """
        path, cursor = f"/v1/state/{_part(operator)}/{_part(state)}", ""
        while True:
            query = {"limit": "200", "prefix": prefix, "cursor": cursor}
            page = _decode(await self._ask(path, {name: value for name, value in query.items() if value}), _Page)
            for item in page.items:
                yield _decoded(item, of)
            if page.partial:
                raise StateUnavailable(f"keys of {operator}/{state} are missing: a partition did not answer; ask again")
            if page.cursor is None:
                return
            cursor = page.cursor

    async def _ask(self, path: str, query: Mapping[str, str]) -> bytes:
        if self._session is None:
            raise QueryRefused("the client is not open: use it in `async with`", status=0)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            try:
                async with self._session.get(URL(self._url + path, encoded=True), params=query) as response:
                    body = await response.read()
                    status = response.status
            except (aiohttp.ClientError, TimeoutError) as exc:
                raise QueryRefused(f"{self._url} does not answer: {str(exc) or type(exc).__name__}", status=0) from exc
            if status == 200:
                return body
            detail = _detail(body) or f"HTTP {status}"
            if status == 404:
                raise NotFound(detail)
            if status != 503:
                raise QueryRefused(detail, status=status)
            if loop.time() >= deadline:
                raise StateUnavailable(detail)
            await asyncio.sleep(_RETRY_S)


def _part(text: str) -> str:
    return quote(text, safe="")


def _decode(body: bytes | msgspec.Raw, of: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=of)
    except _NOT_JSON as exc:
        raise QueryRefused(f"the answer does not fit {getattr(of, '__name__', of)}: {exc}", status=200) from exc


def _decoded(body: bytes | msgspec.Raw, of: type[T]) -> StateValue[T]:
    found: StateValue[T] = _decode(body, StateValue[of])  # type: ignore[valid-type]
    return found


def _detail(body: bytes) -> str:
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
    except _NOT_JSON:
        return ""
    return str(problem.get("detail") or problem.get("title") or "")
