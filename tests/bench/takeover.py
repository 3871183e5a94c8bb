"""Two workers under traffic, one of them killed with SIGKILL: how long the transactions of its partitions wait for their alerts.

python -m tests.bench.takeover [--guarantee exactly_once] [--rounds 3]

Under the parent of `famulus worker --processes 2` the killed worker is started again and comes back as the member that it was.  Without it
the other worker takes over when the session has timed out.  Every alert is compared with the reference afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

from app.transport.brokers import connect
from app.transport.kafka.membership import SESSION_SECONDS
from models.partitioning import partition_of
from models.topics import TopicNames
from tests.bench.kafka import PARTITIONS, read
from tests.bench.reference import verdicts
from tests.bench.restart import stage, work_off
from tests.bench.systems import AT_LEAST_ONCE, EXACTLY_ONCE, Job, end, workers
from tests.bench.traffic import Seen, Traffic
from tests.fault.topics import lag
from tests.support.kafka import NoKafka
from tests.support.ports import free_port
from tests.support.waiting import until
from tests.support.workload import transactions

#: Transactions a second: few enough that nobody is behind, also on a machine that has other things to do.
RATE = 500
#: Seconds that a run takes at most.
LONGEST = 240


def partitions(port: int) -> set[int]:
    """Source partitions of the worker behind a web port, none while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/operators", timeout=2) as answer:
            operators = json.load(answer)["operators"]
    except OSError:
        return set()
    return {
        part["partition"] for operator in operators if operator["uid"] == "fraud" for part in operator["partitions"]
    }


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def takeover(guarantee: str, *, parent: bool) -> tuple[float, float]:
    """Seconds from the kill to the first alert of a transaction that was produced after it, of the killed worker's partitions and of the
    other's."""
    with stage("kafka", guarantee) as job:
        if parent:
            both = [dataclasses.replace(job, system=workers(guarantee, 2))]
            ports = [job.web_port, job.web_port + 1]
        else:
            both = [job, dataclasses.replace(job, folder=job.folder.with_name("other"), web_port=free_port())]
            ports = [one.web_port for one in both]
        running = [one.start() for one in both]
        traffic = Traffic(job, RATE)
        partition = [partition_of(user.encode(), PARTITIONS) for user, _ in transactions(RATE * LONGEST)]
        try:
            until(
                lambda: sorted(map(len, map(partitions, ports))) == [PARTITIONS // 2] * 2,
                within=60,
                what="each worker has half of the partitions",
            )
            traffic.observe()
            traffic.produce()
            until(lambda: len(traffic.seen()) > 5 * RATE / 7, within=60, what="five seconds of alerts")
            until(
                lambda: asyncio.run(lag(job.broker)) < RATE / 2, within=60, what="the workers keep up with the traffic"
            )
            lost = partitions(ports[0])
            newest = max(number for number, _, _ in traffic.seen())
            victim = children(running[0].pid)[0] if parent else running[0].pid
            killed = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            until(
                lambda: any(number > newest + RATE and partition[number] in lost for number, _, _ in traffic.seen()),
                within=SESSION_SECONDS + 30,
                what="alerts of the killed worker's partitions",
                every=0.2,
            )
            produced = traffic.stop_producing()
            work_off(job)
            seen = _complete(job, traffic, exactly=guarantee == EXACTLY_ONCE)
        finally:
            traffic.close()
            for process in running:
                _end(process)
    waited = [
        min(at for number, _, at in seen if produced[number] > killed and (partition[number] in lost) is whose) - killed
        for whose in (True, False)
    ]
    return waited[0], waited[1]


def _complete(job: Job, traffic: Traffic, *, exactly: bool) -> list[Seen]:
    """All alerts, once they are what the input must raise."""

    async def inputs() -> dict[int, list[bytes]]:
        async with connect(job.broker) as client:
            return await read(client, TopicNames.TRANSACTIONS, {})

    expected = Counter((int(tx[1:]), rule) for part in asyncio.run(inputs()).values() for _, rule, tx in verdicts(part))

    def right() -> bool:
        found = Counter((number, rule) for number, rule, _ in traffic.seen())
        return found == expected if exactly else found.keys() == expected.keys()

    until(right, within=30, what="the alerts are those of the reference", every=0.5)
    return traffic.seen()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        end(process, 60)


def run(guarantees: list[str], rounds: int) -> None:
    for guarantee in guarantees:
        for parent in (True, False):
            found = [takeover(guarantee, parent=parent) for _ in range(rounds)]
            killed, other = zip(*found, strict=True)
            print(
                f"  {guarantee:<13} {'with' if parent else 'without':<7} the parent: first new alert of the killed worker's partitions "
                f"{_seconds(killed)} after kill -9, of the other's {_seconds(other)}"
                + ("" if parent else f" (session {SESSION_SECONDS:.0f} s)"),
                flush=True,
            )


def _seconds(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.2f}" for value in sorted(values)) + " s"


def main() -> None:
    parser = argparse.ArgumentParser(description="One of two workers is killed.")
    parser.add_argument("--guarantee", default=f"{EXACTLY_ONCE},{AT_LEAST_ONCE}")
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    try:
        run(chosen.guarantee.split(","), chosen.rounds)
    except NoKafka as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
