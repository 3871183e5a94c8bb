"""All kinds of state in one operator, with and without a time to live, against plain models: random steps, cuts, crashes, clocks, sweeps."""

from __future__ import annotations

import copy
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from models.time import Millis
from tables import ListState, MapState, ReducingState, Ttl, ValueState
from tables.changelog import Marker, Row, marker_row
from tables.rocksdb import RocksStore
from tables.snapshot import SnapshotWriter, load_snapshot
from tables.state import KeyContext
from tables.store import StateStore
from tests.contract.state_kit import START, LogRecord

KEYS = st.sampled_from(["", "a", "a\0", "a\0\0", "\0a", "ab", "€"])
NUMBERS = st.integers(0, 99)
TTL = 1_000
LOG = "log"

#: one element or entry of the model: value and stamp
Stamped = tuple[Any, Millis]


class Machine(RuleBasedStateMachine):
    """The model is one dictionary per state; what was durable at the last cut is kept beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="state-"))
        self.log: list[LogRecord] = []
        self.end = 0
        self.now = START
        self.snapshot: SnapshotWriter | None = None
        self.model: dict[str, dict[str, Any]] = {name: {} for name in ("value", "list", "map", "sum", "tv", "tl", "tm")}
        self.durable = copy.deepcopy(self.model)

    @initialize(rocks=st.booleans(), event_time=st.booleans())
    def begin(self, rocks: bool, event_time: bool) -> None:
        self.rocks = rocks
        self.time = Ttl.Time.EVENT if event_time else Ttl.Time.PROCESSING
        self.open()

    # -- machinery

    def open(self) -> None:
        ttl = Ttl(timedelta(milliseconds=TTL), time=self.time)
        declared: dict[str, Any] = {
            "value": ValueState(int),
            "list": ListState(int, keep_last=20),
            "map": MapState(str, int),
            "sum": ReducingState(int, lambda a, b: a + b),
            "tv": ValueState(int, ttl=ttl),
            "tl": ListState(int, ttl=ttl),
            "tm": MapState(str, int, ttl=ttl),
        }
        self.store: Any = self.new_store()
        begin = self.store.resume_offset
        self.store.apply([record for record in self.log if record.offset >= begin], self.end)
        self.context = KeyContext()
        self.states = {}
        for name, state in declared.items():
            state.name = name
            self.states[name] = state.bind(self.context, self.store)
        self.clock()

    def new_store(self) -> StateStore:
        if self.rocks:
            return RocksStore(
                self.folder / "rocks", cached_keys=1, write_buffer_bytes=1 << 20, block_cache_bytes=1 << 20
            )
        return load_snapshot(self.folder / "0.snapshot", changelog=LOG, partition=0)

    def clock(self) -> None:
        context = self.context
        context.processing_time_ms = context.timestamp_ms = context.watermark_ms = self.now

    def on(self, name: str, key: str) -> Any:
        self.context.key = key
        return self.states[name]

    def living(self, stamped: dict[Any, Stamped] | list[Stamped]) -> list[Any]:
        if isinstance(stamped, dict):
            return [(key, value) for key, (value, stamp) in stamped.items() if stamp + TTL > self.now]
        return [value for value, stamp in stamped if stamp + TTL > self.now]

    # -- steps

    @rule(key=KEYS, n=NUMBERS)
    def set_value(self, key: str, n: int) -> None:
        self.on("value", key).update(n)
        self.model["value"][key] = n
        self.on("tv", key).update(n)
        self.model["tv"][key] = (n, self.now)

    @rule(key=KEYS, n=NUMBERS, count=st.integers(1, 25))
    def add(self, key: str, n: int, count: int) -> None:
        for number in range(n, n + count):
            self.on("list", key).add(number)
            self.on("tl", key).add(number)
            self.on("sum", key).add(number)
            self.model["tl"].setdefault(key, []).append((number, self.now))
            self.model["sum"][key] = self.model["sum"].get(key, 0) + number
        self.model["list"][key] = [*self.model["list"].get(key, []), *range(n, n + count)][-20:]

    @rule(key=KEYS, entry=KEYS, n=NUMBERS)
    def put(self, key: str, entry: str, n: int) -> None:
        self.on("map", key).put(entry, n)
        self.on("tm", key).put(entry, n)
        self.model["map"].setdefault(key, {})[entry] = n
        self.model["tm"].setdefault(key, {})[entry] = (n, self.now)

    @rule(key=KEYS, entry=KEYS)
    def remove(self, key: str, entry: str) -> None:
        for name in ("map", "tm"):
            self.on(name, key).remove(entry)
            self.model[name].get(key, {}).pop(entry, None)

    @rule(key=KEYS, name=st.sampled_from(["value", "list", "map", "sum", "tv", "tl", "tm"]))
    def clear(self, key: str, name: str) -> None:
        self.on(name, key).clear()
        self.model[name].pop(key, None)

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        assert self.on("value", key).value() == self.model["value"].get(key)
        assert list(self.on("list", key).get()) == self.model["list"].get(key, [])
        assert dict(self.on("map", key).entries()) == self.model["map"].get(key, {})
        assert self.on("sum", key).get() == self.model["sum"].get(key)
        value = self.model["tv"].get(key, (None, 0))
        assert self.on("tv", key).value() == (value[0] if value[1] + TTL > self.now else None)
        assert list(self.on("tl", key).get()) == self.living(self.model["tl"].get(key, []))
        assert dict(self.on("tm", key).entries()) == dict(self.living(self.model["tm"].get(key, {})))

    @rule(by=st.sampled_from([1, 100, TTL // 2, TTL - 1, TTL]))
    def advance(self, by: int) -> None:
        self.now += by
        self.clock()

    @rule(budget=st.integers(1, 20))
    def sweep(self, budget: int) -> None:
        for state in self.states.values():
            state.sweep(self.now, budget)

    @rule()
    def cut(self) -> None:
        rows: list[Row] = []
        for state in self.states.values():
            state.freeze(rows)
        self.store.seal(rows)
        part = [*self.store.identity(), *rows, marker_row("source", Marker(self.end, self.now))]
        for key, value in part:
            self.log.append(LogRecord(self.end, 0, key, value))
            self.end += 1
        self.store.committed(part, self.end)
        self.durable = copy.deepcopy(self.model)
        if self.snapshot is not None and self.snapshot.step(2) and self.snapshot.ready():
            self.snapshot.publish()
            self.snapshot = None

    @precondition(lambda self: not self.rocks and self.snapshot is None)
    @rule()
    def begin_snapshot(self) -> None:
        self.cut()
        self.snapshot = SnapshotWriter(self.store, self.folder / "0.snapshot", changelog=LOG, partition=0, now_ms=0)

    @rule()
    def crash(self) -> None:
        if self.snapshot is not None:
            self.snapshot.abort()
            self.snapshot = None
        self.store.close()
        self.model = copy.deepcopy(self.durable)
        self.open()

    @rule()
    def compact(self) -> None:
        newest = {record.key: record.offset for record in self.log}
        self.log = [record for record in self.log if newest[record.key] == record.offset]

    @invariant()
    def shown_is_the_model(self) -> None:
        if not hasattr(self, "states"):
            return
        plain = {
            name: {k: v for k, v in self.model[name].items() if v != {}} for name in ("value", "list", "map", "sum")
        }
        for name, expected in plain.items():
            state = self.states[name]
            assert {key: state.look(key) for key in state.stored_keys()} == expected
        timed = {
            "tv": {k: v for k, (v, stamp) in self.model["tv"].items() if stamp + TTL > self.now},
            "tl": {k: living for k, v in self.model["tl"].items() if (living := self.living(v))},
            "tm": {k: dict(living) for k, v in self.model["tm"].items() if (living := self.living(v))},
        }
        for name, expected in timed.items():
            state = self.states[name]
            assert {key: state.look(key) for key in state.stored_keys()} == expected

    def teardown(self) -> None:
        if self.snapshot is not None:
            self.snapshot.abort()
        if hasattr(self, "store"):
            self.store.close()


Machine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_history_of_steps_cuts_crashes_and_clocks_leaves_the_model = Machine.TestCase
