"""`make bench`: a short version of every benchmark, in about a quarter of an hour on a quiet machine.

    python -m tests.bench                       all parts, short
    python -m tests.bench kafka latency         some of them
    python -m tests.bench --long                5,000,000 transactions, more rounds, a million keys; most of an hour

Every part runs by itself with options of its own: ``python -m tests.bench.kafka --help``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

from tests.bench import embedded, enrichment, jobs, kafka, latency, queries, restart, scaling, takeover
from tests.bench.machine import busy_seconds
from tests.bench.systems import AT_LEAST_ONCE, EXACTLY_ONCE
from tests.support.kafka import NoKafka
from tests.support.worker import ROOT


def _runtime(long: bool) -> None:
    # In a process of its own: it freezes the garbage collector's heap.
    subprocess.run([sys.executable, "-m", "tests.bench.runtime", "200000", "5" if long else "3"], check=True, cwd=ROOT)


def _embedded(long: bool) -> None:
    embedded.compare(count=1_000_000 if long else 300_000, plain=40_000 if long else 20_000, rounds=3 if long else 2)
    if long:
        embedded.show("lane", embedded.run("lane", 5_000_000, watch_memory=True))


def _kafka(long: bool) -> None:
    exactly_once = "lane-eos,loop-eos,ks-memory-eos,ks-rocksdb-eos"
    if long:
        exactly_once += ",flink-heap-eos,flink-rocksdb-eos"  # 2 s between two commits: too long for the short version
        at_least_once = exactly_once.replace("-eos", "-alo")
        kafka.run(count=5_000_000, short=0, rounds=2, systems=f"{exactly_once},{at_least_once}".split(","))
        kafka.run(count=1_000_000, short=40_000, rounds=3, systems=f"lane-alo,loop-alo,{kafka.SLOW}".split(","))
    else:
        kafka.run(count=1_000_000, short=40_000, rounds=2, systems=f"{exactly_once},lane-alo,{kafka.SLOW}".split(","))


def _latency(long: bool) -> None:
    latency.run(
        latency.DEFAULT.split(","), rate=5_000, warm_up=10, seconds=30 if long else 12, quiet=60 if long else 15
    )


def _restart(long: bool) -> None:
    if long:
        restart.run(["kafka", "embedded"], [EXACTLY_ONCE, AT_LEAST_ONCE], [10_000, 1_000_000])
    else:
        restart.run(["kafka"], [EXACTLY_ONCE], [10_000, 200_000])


def _jobs(long: bool) -> None:
    jobs.run(count=1_000_000 if long else 400_000)


def _enrichment(long: bool) -> None:
    enrichment.run(count=500_000 if long else 100_000)


def _queries(long: bool) -> None:
    queries.run(rate=20_000, requests=1_000, seconds=60 if long else 15)


def _takeover(long: bool) -> None:
    takeover.run([EXACTLY_ONCE, AT_LEAST_ONCE] if long else [EXACTLY_ONCE], rounds=5 if long else 1)


def _scaling(long: bool) -> None:
    guarantees = [EXACTLY_ONCE, AT_LEAST_ONCE] if long else [EXACTLY_ONCE]
    scaling.run(guarantees, count=3_000_000 if long else 1_000_000, rounds=3 if long else 1)


#: name -> what it is, the benchmark
PARTS: dict[str, tuple[str, Callable[[bool], None]]] = {
    "runtime": ("the operator runtime without a broker", _runtime),
    "embedded": ("the lane and plain Faust on the embedded log", _embedded),
    "kafka": ("the lane and its peers on Apache Kafka", _kafka),
    "latency": ("from produce() to the alert at 5,000 transactions a second", _latency),
    "jobs": ("the other keyed jobs on Apache Kafka", _jobs),
    "enrichment": ("the enrichment job with a warm Redis", _enrichment),
    "queries": ("state queries beside 20,000 transactions a second", _queries),
    "restart": ("restart, the first alert after kill -9, memory per key", _restart),
    "takeover": ("one of two workers killed under traffic", _takeover),
    "scaling": ("two processes against one", _scaling),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="All benchmarks, or those named.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without one")
    parser.add_argument("--long", action="store_true", help="steady state: five million transactions, a million keys")
    chosen = parser.parse_args()
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    parts = chosen.parts or list(PARTS)
    for number, name in enumerate(parts, 1):
        title, part = PARTS[name]
        busy, at = busy_seconds(), time.monotonic()
        time.sleep(1)
        busy = (busy_seconds() - busy) / (time.monotonic() - at)
        print(
            f"[{number}/{len(parts)}] {title} ({busy:.2f} cores of this machine are busy with other things)", flush=True
        )
        started = time.monotonic()
        try:
            part(chosen.long)
        except NoKafka as why:
            print(f"  left out: {why}", flush=True)
        print(f"  took {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
