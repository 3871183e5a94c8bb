"""Simulated card transactions with planted fraud: a pure function of the seed and of the time that they spread over.

Normal spending: every user has a spending level, a home country and a few merchants that he goes to; more is bought by
day than by night.  Planted fraud comes in episodes, see :class:`Scenario`.  Transactions are made in blocks of
:data:`BLOCK`, each with one high amount and one episode, the kinds taking turns, so the number of planted frauds is known
beforehand: :func:`planted`.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import accumulate, count
from random import Random
from typing import NamedTuple, Protocol

from models.time import Millis, millis
from models.topics import TopicNames
from models.transactions import Transaction

#: Transactions of a block; a last, shorter one has planted fraud only from a fifth of that on.
BLOCK = 250
MERCHANTS = 400
TERMINALS_PER_MERCHANT = 5
#: Normal amounts end here, high ones begin above 10,000: a rule between the two finds exactly the planted ones.
MAX_NORMAL = 2_000.0
COUNTRIES = ("DE", "FR", "IT", "ES", "NL", "PL", "GB", "US")
ABROAD = ("BR", "NG", "TH", "RO", "MX")

_HOUR = millis(timedelta(hours=1))
_DAY = 24 * _HOUR
#: Share of spending by hour of the day (UTC); the mean is 1.
_BY_HOUR = (
    *(0.3, 0.2, 0.1, 0.1, 0.1, 0.2, 0.4, 0.8, 1.2, 1.4, 1.5, 1.7),
    *(1.9, 1.6, 1.4, 1.4, 1.5, 1.7, 1.8, 1.5, 1.2, 0.9, 0.7, 0.4),
)


class Scenario(enum.StrEnum):
    """Why a transaction was made."""

    NORMAL = "normal"
    #: One amount above 10,000.
    HIGH_AMOUNT = "high_amount"
    #: Seven small payments of one user within three minutes.
    BURST = "burst"
    #: Four users' cards used at one terminal, for more than they usually spend.
    COMPROMISED_TERMINAL = "compromised_terminal"
    #: One user's card used abroad, five times, for six to twelve times what he usually spends, after normal payments.
    STOLEN_CARD = "stolen_card"


#: Kinds of episodes in turn, with the number of transactions of each.
EPISODES = {Scenario.BURST: 7, Scenario.COMPROMISED_TERMINAL: 4, Scenario.STOLEN_CARD: 5}
_BURST_MS = millis(timedelta(minutes=3))
#: Normal payments of the victim before a card is stolen.
_BEFORE = 4


class Simulated(NamedTuple):
    """A transaction, and what a perfect detector would say."""

    transaction: Transaction
    scenario: Scenario

    @property
    def topic(self) -> str:
        return TopicNames.TRANSACTIONS

    @property
    def key(self) -> str:
        return self.transaction.user_id

    @property
    def timestamp(self) -> Millis:
        return self.transaction.timestamp

    @property
    def record(self) -> Transaction:
        return self.transaction

    @property
    def label(self) -> dict[str, str]:
        """The transaction's name and what a perfect detector would say."""
        return {"transaction_id": self.transaction.transaction_id, "scenario": self.scenario}


@dataclass(frozen=True, slots=True)
class User:
    """Habits of one user."""

    user_id: str
    country: str
    #: Median of what the user spends at once.
    level: float
    merchants: tuple[int, ...]


class Timeline(Protocol):
    """When transactions are made: position ``n`` is that of the ``n``-th."""

    @property
    def total(self) -> int | None: ...

    def users(self) -> int:
        """How many users share the transactions, so that one of them makes a few a day."""

    def time_at(self, position: float) -> Millis:
        """Event time of a position; never falls as the position grows."""


@dataclass(frozen=True, slots=True)
class Past:
    """``total`` transactions from ``start_ms`` to before ``end_ms``, more by day and fewer by night."""

    total: int
    start_ms: Millis
    end_ms: Millis

    def users(self) -> int:
        days = max((self.end_ms - self.start_ms) / _DAY, 1 / 24)
        return max(50, round(self.total / days / 3))

    def time_at(self, position: float) -> Millis:
        start, end = _load_at(self.start_ms), _load_at(self.end_ms)
        time_ms = int(_time_at(start + position / max(1, self.total) * (end - start)))
        return min(max(time_ms, self.start_ms), self.end_ms)

    @classmethod
    def ending_at(cls, end_ms: Millis, total: int) -> Past:
        """About a thousand transactions a day, over at least an hour and at most 30 days."""
        span = min(max(total * _DAY // 1000, _HOUR), 30 * _DAY)
        return cls(total, end_ms - span, end_ms)


@dataclass(frozen=True, slots=True)
class Live:
    """``rate`` transactions per second from ``start_ms`` on; without a ``total`` they never end."""

    total: int | None
    start_ms: Millis
    rate: float

    def users(self) -> int:
        return max(200, round(self.rate * 1800))

    def time_at(self, position: float) -> Millis:
        return self.start_ms + int(position / self.rate * 1000)


def simulate(seed: int, timeline: Timeline) -> Iterator[Simulated]:
    """Transactions in the order of their event times; the same arguments give the same ones."""
    made = 0
    for number in count():
        size = BLOCK if timeline.total is None else min(BLOCK, timeline.total - made)
        if size <= 0:
            return
        for draft in _Block(seed, number, size, made, timeline).drafts():
            yield Simulated(draft.transaction(f"sim-{seed}-{made}"), draft.scenario)
            made += 1


def planted(total: int) -> Counter[Scenario]:
    """How many transactions of each scenario are among the first ``total`` of a simulation with that total."""
    counts = Counter[Scenario]()
    for number, first in enumerate(range(0, total, BLOCK)):
        size = min(BLOCK, total - first)
        if size >= BLOCK // 5:
            kind = _kind(number)
            counts[kind] += EPISODES[kind]
            counts[Scenario.HIGH_AMOUNT] += 1
    counts[Scenario.NORMAL] = total - counts.total()
    return counts


def _kind(number: int) -> Scenario:
    return tuple(EPISODES)[number % len(EPISODES)]


class _Draft(NamedTuple):
    """A transaction that has no id yet."""

    timestamp: Millis
    user: User
    amount: float
    merchant: int
    terminal: int
    country: str
    scenario: Scenario

    def transaction(self, transaction_id: str) -> Transaction:
        return Transaction(
            transaction_id=transaction_id,
            user_id=self.user.user_id,
            amount=round(self.amount, 2),
            timestamp=self.timestamp,
            merchant=f"m{self.merchant}",
            country=self.country,
            attributes={"terminal": f"m{self.merchant}-{self.terminal}"},
        )


class _Block:
    """``size`` transactions that follow ``first`` others."""

    def __init__(self, seed: int, number: int, size: int, first: int, timeline: Timeline) -> None:
        self._seed, self._number, self._size = seed, number, size
        self._timeline = timeline
        self._users = timeline.users()
        self._first = first
        self._start_ms, self._end_ms = timeline.time_at(first), timeline.time_at(first + size)
        self._random = Random(f"{seed}/{number}")

    def drafts(self) -> list[_Draft]:
        drafts: list[_Draft] = []
        if self._size >= BLOCK // 5:
            drafts += self._high_amount()
            drafts += self._episode(_kind(self._number))
        drafts += [self._normal(self._at(), self._user()) for _ in range(self._size - len(drafts))]
        drafts.sort(key=lambda draft: draft.timestamp)
        return drafts

    def _episode(self, kind: Scenario) -> list[_Draft]:
        if kind is Scenario.BURST:
            return self._burst()
        return self._compromised_terminal() if kind is Scenario.COMPROMISED_TERMINAL else self._stolen_card()

    def _at(self, low: float = 0.0, high: float = 1.0) -> Millis:
        """A time between two shares of the block."""
        position = self._first + self._size * self._random.uniform(low, high)
        return min(self._timeline.time_at(position), self._end_ms - 1)

    def _after(self, start_ms: Millis, within_ms: Millis) -> Millis:
        return self._random.randrange(start_ms, max(start_ms + 1, min(start_ms + within_ms, self._end_ms)))

    def _user(self) -> User:
        return _user(self._seed, self._random.randrange(self._users))

    def _normal(self, timestamp: Millis, user: User) -> _Draft:
        amount = min(MAX_NORMAL, user.level * math.exp(self._random.gauss(0.0, 0.4)))
        merchant = self._random.choice(user.merchants)
        return self._draft(timestamp, user, amount, merchant, user.country, Scenario.NORMAL)

    def _draft(
        self, timestamp: Millis, user: User, amount: float, merchant: int, country: str, scenario: Scenario
    ) -> _Draft:
        terminal = self._random.randrange(TERMINALS_PER_MERCHANT)
        return _Draft(timestamp, user, amount, merchant, terminal, country, scenario)

    def _high_amount(self) -> list[_Draft]:
        user, amount = self._user(), self._random.uniform(10_000.01, 25_000.0)
        merchant = self._random.choice(user.merchants)
        return [self._draft(self._at(), user, amount, merchant, user.country, Scenario.HIGH_AMOUNT)]

    def _burst(self) -> list[_Draft]:
        user, start = self._user(), self._at(0.1, 0.6)
        times = [self._after(start, _BURST_MS) for _ in range(EPISODES[Scenario.BURST])]
        merchants = [self._random.randrange(MERCHANTS) for _ in times]
        return [
            self._draft(time, user, self._random.uniform(1.0, 20.0), merchant, user.country, Scenario.BURST)
            for time, merchant in zip(times, merchants, strict=True)
        ]

    def _compromised_terminal(self) -> list[_Draft]:
        start, merchant = self._at(0.1, 0.6), self._random.randrange(MERCHANTS)
        terminal = self._random.randrange(TERMINALS_PER_MERCHANT)
        drafts = []
        for _ in range(EPISODES[Scenario.COMPROMISED_TERMINAL]):
            user, time = self._user(), self._after(start, _HOUR)
            amount = 50.0 + user.level * self._random.uniform(2.0, 4.0)
            draft = self._draft(time, user, amount, merchant, user.country, Scenario.COMPROMISED_TERMINAL)
            drafts.append(draft._replace(terminal=terminal))
        return drafts

    def _stolen_card(self) -> list[_Draft]:
        user, start = self._user(), self._at(0.4, 0.6)
        before = [self._normal(max(self._start_ms, min(self._at(0.0, 0.4), start - 1)), user) for _ in range(_BEFORE)]
        country = self._random.choice(ABROAD)
        stolen = [
            self._draft(
                self._after(start, _HOUR),
                user,
                user.level * self._random.uniform(6.0, 12.0),
                self._random.randrange(MERCHANTS),
                country,
                Scenario.STOLEN_CARD,
            )
            for _ in range(EPISODES[Scenario.STOLEN_CARD])
        ]
        return before + stolen


@lru_cache(maxsize=65_536)
def _user(seed: int, index: int) -> User:
    random = Random(f"{seed}/user/{index}")
    level = min(150.0, max(5.0, math.exp(random.gauss(math.log(40.0), 0.6))))
    merchants = tuple(random.randrange(MERCHANTS) for _ in range(random.randint(4, 9)))
    return User(f"user{index}", random.choice(COUNTRIES), level, merchants)


#: Spending from midnight to each full hour, in hours of mean spending.
_LOAD = (0.0, *accumulate(weight * 24 / sum(_BY_HOUR) for weight in _BY_HOUR))


def _load_at(time_ms: Millis) -> float:
    """Spending from 1970 to the time, in hours of mean spending."""
    day, rest = divmod(time_ms, _DAY)
    hour, part = divmod(rest, _HOUR)
    return day * 24 + _LOAD[hour] + (_LOAD[hour + 1] - _LOAD[hour]) * part / _HOUR


def _time_at(load: float) -> float:
    """The time with that much spending before it."""
    day, rest = divmod(load, 24)
    hour = min(bisect_right(_LOAD, rest) - 1, 23)
    part = (rest - _LOAD[hour]) / (_LOAD[hour + 1] - _LOAD[hour])
    return day * _DAY + (hour + min(part, 1.0)) * _HOUR
