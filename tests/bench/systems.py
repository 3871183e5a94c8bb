"""The systems that are compared on Kafka, and how each is started on the same input."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.topics import TopicNames
from tests.bench.peers.environment import flink, kafka_streams, peer_python
from tests.support.ports import free_port
from tests.support.worker import BIN, ROOT

AT_LEAST_ONCE, EXACTLY_ONCE = "at_least_once", "exactly_once"


@dataclass(frozen=True)
class System:
    """A program that does the standard work."""

    name: str
    guarantee: str
    command: Callable[[], list[str]]
    #: time between two commits; each system has what suits it, the lane its default
    commit_ms: int
    variables: Mapping[str, str] = field(default_factory=dict)
    #: too slow for a long input: it gets a short one
    slow: bool = False
    #: how long a producer waits for more
    linger_ms: int = 20

    @property
    def lane(self) -> bool:
        return self.name == "lane"

    @property
    def label(self) -> str:
        short = {AT_LEAST_ONCE: "ALO", EXACTLY_ONCE: "EOS"}
        return f"{self.name} {short[self.guarantee]}"


def _lane() -> list[str]:
    return [str(BIN / "faust"), "-A", "app", "worker", "-l", "info"]


def _plain_faust() -> list[str]:
    return [sys.executable, "-m", "tests.bench.peers.plain_faust", "worker", "-l", "warn", "--without-web"]


def _loop() -> list[str]:
    return [peer_python(), "-m", "tests.bench.peers.loop"]


def _quix() -> list[str]:
    return [peer_python(), "-m", "tests.bench.peers.quix"]


def lane(guarantee: str, commit_ms: int = 50) -> System:
    return System("lane", guarantee, _lane, commit_ms)


def workers(guarantee: str, processes: int, commit_ms: int = 50) -> System:
    """The lane in several processes under one parent."""
    command = [str(BIN / "famulus"), "worker", "--processes", str(processes)]
    return System("lane", guarantee, lambda: command, commit_ms)


def all_systems() -> dict[str, System]:
    """Name on the command line -> system."""
    systems: dict[str, System] = {}
    for short, guarantee in (("eos", EXACTLY_ONCE), ("alo", AT_LEAST_ONCE)):
        # Kafka Streams commits every 100 ms in exactly_once by default; its 30 s in at_least_once would measure nothing but its cache.
        stream_ms = 100 if guarantee == EXACTLY_ONCE else 1000
        systems |= {
            f"lane-{short}": lane(guarantee),
            f"loop-{short}": System("hand-written loop", guarantee, _loop, 50),
            f"ks-memory-{short}": System(
                "Kafka Streams memory", guarantee, kafka_streams, stream_ms, {"BENCH_STORE": "memory"}
            ),
            f"ks-rocksdb-{short}": System(
                "Kafka Streams RocksDB", guarantee, kafka_streams, stream_ms, {"BENCH_STORE": "rocksdb"}
            ),
            # 2 s is what suits Flink: a checkpoint passes through the whole job, and writes all of the heap's state.
            f"flink-heap-{short}": System("Flink heap", guarantee, flink, 2000, {"BENCH_STORE": "heap"}),
            f"flink-rocksdb-{short}": System("Flink RocksDB", guarantee, flink, 2000, {"BENCH_STORE": "rocksdb"}),
        }
    # Faust's exactly_once on Kafka loses and doubles; there is nothing to compare with.
    systems["plain-alo"] = System("plain Faust", AT_LEAST_ONCE, _plain_faust, 200, slow=True)
    systems["quix-alo"] = System("Quix Streams", AT_LEAST_ONCE, _quix, 1000, slow=True)
    return systems


@dataclass(frozen=True)
class Job:
    """One start of a system: where its input is and where its alerts go."""

    system: System
    broker: str
    app_id: str
    input: str
    alerts: str
    folder: Path
    #: of the lane's web server
    web_port: int = field(default_factory=free_port)

    def environment(self) -> dict[str, str]:
        # Without its bytecode on the disk, Python compiles every module anew in each start.
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FAMULUS_", "BENCH_")) and name != "PYTHONDONTWRITEBYTECODE"
        }
        system = self.system
        if system.lane:
            assert (self.input, self.alerts) == (TopicNames.TRANSACTIONS, TopicNames.ALERTS)
            chosen = {
                "FAMULUS_BROKER": self.broker,
                "FAMULUS_APP_ID": self.app_id,
                "FAMULUS_JOBS": "fraud",
                "FAMULUS_PROCESSING_GUARANTEE": system.guarantee,
                "FAMULUS_COMMIT_INTERVAL_MS": str(system.commit_ms),
                "FAMULUS_DATA_DIR": str(self.folder / "data"),
                "FAMULUS_WEB_PORT": str(self.web_port),
            }
        else:
            chosen = {
                "BENCH_BROKER": self.broker,
                "BENCH_BOOTSTRAP": self.broker.removeprefix("kafka://"),
                "BENCH_APP_ID": self.app_id,
                "BENCH_INPUT": self.input,
                "BENCH_ALERTS": self.alerts,
                "BENCH_GUARANTEE": system.guarantee,
                "BENCH_COMMIT_MS": str(system.commit_ms),
                "BENCH_LINGER_MS": str(system.linger_ms),
                "BENCH_STATE_DIR": str(self.folder / "state"),
            }
        return {**clean, "PYTHONPATH": str(ROOT), **chosen, **system.variables}

    @property
    def log_file(self) -> Path:
        return self.folder / "log"

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        # It must not outlive us, however we end.
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with open(self.log_file, "ab") as log:
            return subprocess.Popen(
                [*leash, *self.system.command()],
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def end(process: subprocess.Popen[bytes], within: float = 20) -> None:
    """SIGTERM, and SIGKILL for whoever does not hear."""
    process.terminate()
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
