"""Questions about keyed state, and their answers, as the views and the command line see them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from models.errors import NotFound
from models.time import Millis


@dataclass(frozen=True, slots=True)
class StateInfo:
    """A state that an operator declares; ``kind`` is ``value``, ``list``, ``map`` and so on."""

    name: str
    kind: str
    key_type: str


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """An operator of the topology and where it stands on this worker.

    ``watermarks`` (event time) and ``lag`` (records not yet processed) have an entry per partition in ``partitions``,
    the ones assigned to this worker.
    """

    uid: str
    name: str
    states: Sequence[StateInfo]
    partitions: Sequence[int]
    watermarks: Mapping[int, Millis]
    lag: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class StateAnswer:
    """One key's value and how fresh it is: it contains every source record before ``source_offset``.

    ``value`` may be the live object: encode it before giving way to the event loop, and never change it.
    """

    operator: str
    state: str
    key: str
    value: object
    partition: int
    source_offset: int
    watermark: Millis


@dataclass(frozen=True, slots=True)
class StatePage:
    """Some keys in ascending order.

    ``cursor`` is the last key of the page where more follow, else ``None``.  ``partial`` says that a partition could
    not answer (it is recovering), so keys may be missing.
    """

    answers: Sequence[StateAnswer]
    cursor: str | None
    partial: bool


class NotFoundElsewhere(NotFound):
    """What another worker said that it has not."""


class StateQueries(Protocol):
    """Reads keyed state by name."""

    def operators(self) -> Sequence[OperatorInfo]: ...

    async def get(self, operator: str, state: str, key: str) -> StateAnswer:
        """The value of a key.

        Raises :class:`models.errors.NotFound` for an operator, state or key that does not exist (the text says which)
        and :class:`models.errors.StateUnavailable` while the key's partition is being recovered.
        """

    async def list(self, operator: str, state: str, prefix: str, limit: int, cursor: str | None) -> StatePage:
        """At most ``limit`` keys that start with ``prefix`` and, with ``cursor``, come after that key."""


def cursor_of(key: str) -> str:
    """The cursor, as it travels in a URL, of a page that ended with ``key``."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def key_of(cursor: str) -> str:
    """The key that a cursor stands for; raises ``ValueError`` for one that is none."""
    return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
