"""The operator runtime against the same work written inline: CPU microseconds per record, and the ratio.

The work: transactions of 10,000 users in 4 partitions and batches of 8192; decode, keep each user's last ten minutes, ten rules, encode
alerts and, per batch, the changelog rows of what changed.  No broker.  The variants run interleaved, several times, and the medians
are compared: on a shared machine read the ratios of one run, not the absolutes of two.

    python -m tests.bench.runtime [records] [rounds]
"""

from __future__ import annotations

import gc
import random
import resource
import statistics
import sys
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import timedelta
from operator import attrgetter
from typing import Any

import msgspec

from agents.operator import AggregateFunction, Context, KeyedProcessFunction, TumblingWindow, keyed_source
from agents.operator.driver import OperatorTask
from agents.testing import HarnessRecord
from models.history import HistoryEntry
from models.time import Millis
from models.transactions import Transaction
from tables import ListState, TimeSeriesState, Ttl, ValueState
from tables.changelog import part_suffix
from tables.store import PartitionStore

USERS = 10_000
PARTITIONS = 4
BATCH = 8192
TEN_MINUTES = timedelta(minutes=10)
TEN_MINUTES_MS = 600_000
NOW = 1_700_100_000_000

Batches = list[list[list[HarnessRecord]]]
#: takes all batches; returns numbers that must be equal for variants of the same work
Run = Callable[[Batches], Any]


class Alert(msgspec.Struct, gc=False):
    user_id: str
    rule: int
    timestamp: int
    transaction_id: str


def records(count: int, *, users: int = USERS) -> Batches:
    """Transactions by partition, in batches."""
    chance = random.Random(7)
    parts: list[list[HarnessRecord]] = [[] for _ in range(PARTITIONS)]
    at = 1_700_000_000_000
    for n in range(count):
        at += chance.randrange(0, 20)
        user = f"user{chance.randrange(users)}"
        amount = round(chance.lognormvariate(4, 1.6), 2)
        value = msgspec.json.encode(
            {
                "transaction_id": f"t{n}",
                "user_id": user,
                "amount": amount,
                "timestamp": at - chance.randrange(0, 3000),
                "merchant": f"m{chance.randrange(2000)}",
                "country": chance.choice(("DE", "FR", "US", "KP")),
            }
        )
        part = parts[zlib.crc32(user.encode()) % PARTITIONS]
        part.append(HarnessRecord(len(part), at, user.encode(), value))
    return [[part[i : i + BATCH] for i in range(0, len(part), BATCH)] for part in parts]


def fired(tx: Transaction, recent: int) -> list[int] | None:
    """Ten rules."""
    out: list[int] | None = None
    amount = tx.amount
    if amount > 10_000:
        out = [0]
    if recent > 5:
        out = [*(out or ()), 1]
    for rule, limit in ((2, 11_000.0), (3, 12_000.0), (4, 13_000.0), (5, 14_000.0), (6, 15_000.0), (7, 16_000.0)):
        if amount > limit:
            out = [*(out or ()), rule]
    if tx.country == "KP" and amount > 5000:
        out = [*(out or ()), 8]
    if tx.merchant == "m666":
        out = [*(out or ()), 9]
    return out


class Fraud(KeyedProcessFunction[Transaction, Alert]):
    """The work as a user writes it."""

    history = TimeSeriesState(HistoryEntry, time=attrgetter("timestamp"), keep_for=TEN_MINUTES, keep_last=10_000)

    def process_element(self, event: Transaction, ctx: Context) -> list[Alert] | None:
        timestamp = event.timestamp
        series = self.history.add(HistoryEntry(timestamp, event.amount, event.merchant, event.country))
        rules = fired(event, len(series))
        if rules is None:
            return None
        return [Alert(event.user_id, rule, timestamp, event.transaction_id) for rule in rules]


class FraudWithTimer(Fraud):
    """The same with a time to live on the history, and one timer per user, set once and set again when it fires."""

    history = TimeSeriesState(
        HistoryEntry, time=attrgetter("timestamp"), keep_for=TEN_MINUTES, keep_last=10_000, ttl=Ttl(timedelta(hours=2))
    )
    wake = ValueState(int)

    def process_element(self, event: Transaction, ctx: Context) -> list[Alert] | None:
        if self.wake.value() is None:
            self.wake.update(event.timestamp)
            ctx.timers.register_event_time(event.timestamp + TEN_MINUTES_MS)
        return super().process_element(event, ctx)

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> None:
        ctx.timers.register_event_time(timestamp_ms + TEN_MINUTES_MS)


class Recent(KeyedProcessFunction[Transaction, Alert]):
    """What the next one is compared with: the same without a time to live and without timers."""

    recent = ListState(HistoryEntry, keep_last=20)
    wake = ValueState(int)

    def process_element(self, event: Transaction, ctx: Context) -> list[Alert] | None:
        timestamp = event.timestamp
        self.recent.add(HistoryEntry(timestamp, event.amount, event.merchant, event.country))
        if self.wake.value() is None:
            self.wake.update(timestamp)
        rules = fired(event, len(self.recent))
        if rules is None:
            return None
        return [Alert(event.user_id, rule, timestamp, event.transaction_id) for rule in rules]


class RecentWithTimer(KeyedProcessFunction[Transaction, Alert]):
    """A time to live on the history, and one timer per user, set once and moved on when it fires."""

    recent = ListState(HistoryEntry, keep_last=20, ttl=Ttl(timedelta(hours=2)))
    wake = ValueState(int)

    def process_element(self, event: Transaction, ctx: Context) -> list[Alert] | None:
        timestamp = event.timestamp
        self.recent.add(HistoryEntry(timestamp, event.amount, event.merchant, event.country))
        if self.wake.value() is None:
            self.wake.update(timestamp)
            ctx.timers.register_event_time(timestamp + TEN_MINUTES_MS)
        rules = fired(event, len(self.recent))
        if rules is None:
            return None
        return [Alert(event.user_id, rule, timestamp, event.transaction_id) for rule in rules]

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> None:
        ctx.timers.register_event_time(timestamp_ms + TEN_MINUTES_MS)


class Count(msgspec.Struct, gc=False):
    events: int = 0
    amount: float = 0.0


class PerUser(AggregateFunction[Transaction, Count, Count]):
    """What a window of a user adds up."""

    def create_accumulator(self) -> Count:
        return Count()

    def add(self, value: Transaction, accumulator: Count) -> Count:
        accumulator.events += 1
        accumulator.amount += value.amount
        return accumulator

    def get_result(self, accumulator: Count) -> Count:
        return accumulator


def runtime(function: Callable[[], KeyedProcessFunction[Any, Any]]) -> Callable[[], Run]:
    """A variant on the runtime."""
    decode = msgspec.json.Decoder(Transaction).decode

    def make() -> Run:
        source = keyed_source("transactions", decode, "user_id")
        tasks = [OperatorTask(function(), source, PartitionStore(), partition=n) for n in range(PARTITIONS)]

        def run(batches: Batches) -> Any:
            alerts = rows = 0
            for task, batch in _turns(tasks, batches):
                task.run(batch, NOW)
                alerts += len(task.outputs)
                rows += len(task.freeze())
                task.outputs.clear()
            return alerts, rows

        return run

    return make


def inline() -> Run:
    """The first variant by hand: what any runtime costs is what it adds to this."""
    decode = msgspec.json.Decoder(Transaction).decode
    encode = msgspec.json.Encoder().encode
    pack = msgspec.msgpack.Encoder().encode
    time_of = attrgetter("timestamp")
    states: list[dict[str, list[HistoryEntry]]] = [{} for _ in range(PARTITIONS)]

    def run(batches: Batches) -> Any:
        alerts = rows = 0
        for state, batch in _turns(states, batches):
            dirty: dict[str, list[HistoryEntry]] = {}
            out = []
            for record in batch:
                tx = decode(record.value)
                user = tx.user_id
                raw = user.encode()
                if raw != record.key:
                    raise ValueError(record)
                timestamp = tx.timestamp
                entry = HistoryEntry(timestamp, tx.amount, tx.merchant, tx.country)
                history = state.get(user)
                if history is None:
                    history = state[user] = []
                if not history or timestamp >= history[-1].timestamp:
                    history.append(entry)
                else:
                    history.insert(bisect_right(history, timestamp, key=time_of), entry)
                low = history[-1].timestamp - TEN_MINUTES_MS
                if history[0].timestamp <= low:
                    del history[: bisect_right(history, low, key=time_of)]
                dirty[user] = history
                rules = fired(tx, len(history))
                if rules is not None:
                    for rule in rules:
                        out.append((raw, encode(Alert(user, rule, timestamp, tx.transaction_id))))
            frozen = [
                (b"history\0" + user.encode() + part_suffix(b""), pack(history)) for user, history in dirty.items()
            ]
            alerts += len(out)
            rows += len(frozen)
        return alerts, rows

    return run


def _turns(states: list[Any], batches: Batches) -> Iterator[tuple[Any, list[HarnessRecord]]]:
    for number in range(max(map(len, batches))):
        for state, part in zip(states, batches, strict=True):
            if number < len(part):
                yield state, part[number]


VARIANTS: dict[str, Callable[[], Run]] = {
    "inline": inline,
    "runtime": runtime(Fraud),
    "runtime, time to live, a timer per user": runtime(FraudWithTimer),
    "list of 20": runtime(Recent),
    "list of 20, time to live, a timer per user": runtime(RecentWithTimer),
    "5-minute tumbling windows": runtime(lambda: TumblingWindow(timedelta(minutes=5)).aggregate(PerUser())),
}


def measure(count: int = 200_000, rounds: int = 5) -> dict[str, float]:
    """Median CPU microseconds per record of each variant."""
    batches = records(count)
    gc.collect()
    gc.freeze()
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, make in VARIANTS.items():
            run = make()
            gc.collect()
            start = time.process_time()
            run(batches)
            times[name].append((time.process_time() - start) / count * 1e6)
    gc.unfreeze()
    return {name: statistics.median(each) for name, each in times.items()}


def bytes_per_key(keys: int = 1_000_000) -> float:
    """Resident memory of one small value per key, without the key's own text."""

    class Small(KeyedProcessFunction[Any, Any]):
        value = ValueState(Count)

        def process_element(self, event: Any, ctx: Context) -> None:
            """Takes nothing: the values are set from outside."""

    function = Small()
    source = keyed_source("t", msgspec.json.Decoder(Transaction).decode, "user_id")
    task = OperatorTask(function, source, PartitionStore())
    names = [f"user{n}" for n in range(keys)]
    gc.collect()
    before = _resident()
    for number, task.context.key in enumerate(names):
        function.value.update(Count(number, 1.0))
        if number % 50_000 == 0:
            task.freeze()
    task.freeze()
    return (_resident() - before) / keys


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    medians = measure(count, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
    base = medians["inline"]
    for name, each in medians.items():
        print(f"{name:45s} {each:6.2f} us/record   {each - base:+5.2f}   x{each / base:.2f}   {1e6 / each:9,.0f}/s")
    print(f"one small value per key, 1,000,000 keys: {bytes_per_key():.0f} bytes each")


if __name__ == "__main__":
    main()
