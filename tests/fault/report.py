"""What a run found: outputs, their order and the state, each compared with the oracle, and how soon workers were ready."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from models.topics import TopicNames, dlq_topic
from tests.fault.topics import read_topic
from tests.support.oracle import STANDARD_RULES, Decision, decided, decisions
from tests.support.waiting import until
from tests.support.worker import Worker

#: How far back a history is compared: the longest window of the rules.
WINDOW_MS = 600_000

HEADER = (
    "run                                   faults (at points)   alerts  lost doubled order dead  "
    "state expected/found      ready p50/max s"
)


@dataclass
class Report:
    """What one run of the campaign found."""

    seed: int
    transactions: int
    #: transport, guarantee, store and number of workers, or the name of a scenario
    name: str = "embedded"
    #: an alert may be there twice after a crash, if its id is the same
    repeats_allowed: bool = False
    #: faults done, and of those the ones that met their failpoint
    kills: int = 0
    at_points: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    expected: int = 0
    lost: int = 0
    #: alerts that should not be there: too often, wrong, or with another id than their first copy
    doubled: int = 0
    #: further copies with equal ids, where they are allowed
    repeated: int = 0
    out_of_order: int = 0
    #: good records among the dead letters
    dead: int = 0
    #: users whose history differs
    state_differs: int = 0
    digests: tuple[str, str] = ("", "")
    ready_seconds: list[float] = field(default_factory=list)
    #: the first deviations, for whoever looks into them
    details: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return not (self.lost or self.doubled or self.out_of_order or self.state_differs or self.dead)

    def row(self) -> str:
        ready = sorted(self.ready_seconds) or [0.0]
        doubled = f"{self.doubled}+{self.repeated}" if self.repeats_allowed else str(self.doubled)
        verdict = "exact" if self.exact else "NOT EXACT " + "; ".join(self.details[:6])
        return (
            f"{self.name:<34} {self.kills:>5} ({self.at_points:>4})  {self.expected:>14} {self.lost:>5} {doubled:>7} "
            f"{self.out_of_order:>5} {self.dead:>4}  {self.digests[0]}/{self.digests[1]}  "
            f"{median(ready):>6.1f}/{ready[-1]:.1f}  {verdict}"
        )

    def compare(self, broker: str, worker: Worker) -> None:
        """Everything, while ``worker`` still answers for the state of all partitions."""
        self.compare_state(broker, worker)
        self.compare_outputs(broker)

    # -- outputs

    def compare_outputs(self, broker: str) -> None:
        """Alerts against the oracle: each once, none missing, in order per user."""
        inputs = asyncio.run(read_topic(broker, TopicNames.TRANSACTIONS))
        alerts = asyncio.run(read_topic(broker, TopicNames.ALERTS))
        self.transactions = sum(map(len, inputs.values()))
        for partition in inputs.keys() | alerts.keys():
            expected = decisions(inputs.get(partition, []), STANDARD_RULES)
            values = alerts.get(partition, [])
            self._compare_ids(partition, values)
            found = decided(values)
            if self.repeats_allowed:
                once = list(dict.fromkeys(found))
                self.repeated += len(found) - len(once)
                found = once
            self._compare_partition(partition, expected, found)
        self.dead = sum(map(len, asyncio.run(read_topic(broker, dlq_topic(TopicNames.TRANSACTIONS))).values()))

    def _compare_partition(self, partition: int, expected: list[Decision], found: list[Decision]) -> None:
        want, have = Counter(expected), Counter(found)
        self.expected += len(expected)
        lost, doubled = want - have, have - want
        self.lost += sum(lost.values())
        self.doubled += sum(doubled.values())
        for what, which in (("lost", lost), ("too much", doubled)):
            self.details += [f"{what}: {one} in partition {partition}" for one in list(which)[:2]]
        mine, theirs = _by_user(expected), _by_user(found)
        disordered = [user for user in mine if mine[user] != theirs.get(user)]
        if not lost and not doubled:
            self.details += [f"another order: {user} in partition {partition}" for user in disordered[:2]]
        self.out_of_order += len(disordered)

    def _compare_ids(self, partition: int, values: list[bytes]) -> None:
        """A decision has one id, and an id one decision."""
        ids: dict[str, Decision] = {}
        for value, decision in zip(values, decided(values), strict=True):
            alert_id = json.loads(value)["alert_id"]
            if ids.setdefault(alert_id, decision) != decision:
                self.doubled += 1
                self.details.append(f"one id for {decision} and {ids[alert_id]} in partition {partition}")
        if len(ids) != len(set(ids.values())):
            self.doubled += len(ids) - len(set(ids.values()))
            self.details.append(f"decisions with several ids in partition {partition}")

    # -- state

    def compare_state(self, broker: str, worker: Worker) -> None:
        """Histories over HTTP against the input, for every user: the last ten minutes must be there, in order of time."""
        histories: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for values in asyncio.run(read_topic(broker, TopicNames.TRANSACTIONS)).values():
            for value in values:
                tx = json.loads(value)
                histories[tx["user_id"]].append((tx["timestamp"], tx["amount"]))
        want = {user: _recent(entries) for user, entries in histories.items()}
        have = {user: _recent(entries) for user, entries in listed(worker).items()}
        different = [user for user in want.keys() | have.keys() if want.get(user) != have.get(user)]
        self.state_differs += len(different)
        if different:
            self.details.append(f"{len(different)} of {len(want)} histories differ")
        self.details += [
            f"history of {user}: {len(have.get(user, []))} instead of {len(want.get(user, []))} entries"
            for user in different[:2]
        ]
        self.digests = _digest(want), _digest(have)


def listed(worker: Worker, *, within: float = 60) -> dict[str, list[tuple[int, float]]]:
    """Every user's history: (time in ms, amount) in the order of the state."""
    found: list[dict[str, list[tuple[int, float]]]] = []

    def complete() -> bool:
        page = _list_all(worker)
        if page is not None:
            found.append(page)
        return page is not None

    until(complete, within=within, what="the state of all partitions can be listed", every=0.3)
    return found[-1]


def _list_all(worker: Worker) -> dict[str, list[tuple[int, float]]] | None:
    """``None`` while a partition is missing: another worker has just got it, or is still to say so."""
    have: dict[str, list[tuple[int, float]]] = {}
    cursor = ""
    while True:
        page = worker.get(f"/v1/state/fraud/history?limit=100{cursor}")
        if page is None or page["partial"]:
            return None
        for item in page["items"]:
            have[item["key"]] = [(entry["timestamp"], entry["amount"]) for entry in item["value"]]
        if not page.get("cursor"):
            return have
        cursor = f"&cursor={page['cursor']}"


def _recent(entries: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """By time, those of one time in the order in which they came."""
    last = max((time_ms for time_ms, _ in entries), default=0)
    return sorted((entry for entry in entries if entry[0] > last - WINDOW_MS), key=lambda entry: entry[0])


def _digest(histories: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(sorted(histories.items())).encode()).hexdigest()[:12]


def _by_user(found: list[Decision]) -> dict[str, list[str]]:
    """Each user's transactions in the order of their alerts."""
    users: dict[str, list[str]] = defaultdict(list)
    for user, _, _, transaction in found:
        users[user].append(transaction)
    return users
