"""``make soak``: workers run for a long time, and nothing may grow; the exit code is 0 if all is flat."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from models.errors import FamulusError
from tests.fault.report import HEADER
from tests.soak import idle, probes, traffic
from tests.soak.fleet import LOGS, Fleet, fleet
from tests.soak.verdict import Flatness, Limits
from tests.support.kafka import NoKafka

#: A connection that is closed every few seconds leaves garbage, which is collected now and then.
HASTY = Limits(memory_mb=10, cpu=0.1, cpu_rise=0.02)
COLUMNS = "worker       minutes   memory MB start/end     KB/hour   CPU % start/end   handles start/end   verdict"


def row(name: str, minutes: float, found: Flatness) -> str:
    memory, cpu, handles = found.memory, found.cpu, found.handles
    return (
        f"{name:<12} {minutes:>7.1f}   {memory[0]:>9.1f}/{memory[1]:<9.1f} {found.memory_per_hour * 1000:>9.0f}   "
        f"{cpu[0] * 100:>7.2f}/{cpu[1] * 100:<7.2f}   {handles[0]:>8}/{handles[1]:<8}   {'; '.join(found.wrong) or 'flat'}"
    )


def soak_idle(chosen: argparse.Namespace, fleets: list[Fleet]) -> bool:
    limits = HASTY if chosen.hasty else Limits()
    plan = idle.Plan(seconds=chosen.minutes * 60, every=chosen.every, seed=chosen.seed, limits=limits)
    outcomes = asyncio.run(idle.run(fleets, plan, _say))
    print(COLUMNS)
    for outcome in outcomes:
        for name, found in outcome.workers.items():
            print(row(name, chosen.minutes, found))
    for one, outcome in zip(fleets, outcomes, strict=True):
        print(
            f"{one.log}: written in the first quarter {outcome.early or 'nothing'}, later {outcome.written or 'nothing'}"
        )
        if outcome.left:
            print(f"{one.log}: {outcome.left} records of other jobs were not worked off")
    print("", HEADER, *(outcome.report.row() for outcome in outcomes), sep="\n")
    return all(outcome.flat for outcome in outcomes)


def soak_traffic(chosen: argparse.Namespace, fleets: list[Fleet]) -> bool:
    plan = traffic.Plan(seconds=chosen.minutes * 60, every=chosen.every, seed=chosen.seed, rate=chosen.rate)
    outcomes = asyncio.run(traffic.run(fleets, plan, _say))
    print(COLUMNS)
    for outcome in outcomes:
        for name, found in outcome.workers.items():
            print(row(name, chosen.minutes, found))
    for one, outcome in zip(fleets, outcomes, strict=True):
        print(f"{one.log}: {outcome.produced} records, at most {outcome.most_lag} waiting")
        for what, (before, after) in outcome.sizes.items():
            print(f"{one.log}: {what:<40} {before:>10.1f} / {after:.1f}")
        for reason in outcome.wrong:
            print(f"{one.log}: {reason}")
        if outcome.left:
            print(f"{one.log}: {outcome.left} records were not worked off")
    return all(outcome.flat for outcome in outcomes)


def soak_probes(chosen: argparse.Namespace, fleets: list[Fleet]) -> bool:
    outcomes = [outcome for one in fleets for outcome in probes.run(one, _say)]
    for found in outcomes:
        print(
            f"{found.name:<12} memory MB {found.before:.1f} at first, at most {found.memory[0]:.1f} then {found.memory[1]:.1f}"
            f"{f'; {found.unanswered} not answered' if found.unanswered else ''}   {'flat' if found.flat else 'NOT FLAT'}"
        )
    return all(found.flat for found in outcomes)


PROGRAMS: dict[str, Callable[[argparse.Namespace, list[Fleet]], bool]] = {
    "idle": soak_idle,
    "traffic": soak_traffic,
    "probes": soak_probes,
}


def one_program(name: str, chosen: argparse.Namespace) -> bool:
    env = {"FAMULUS_STORE": f"{chosen.store}://", "FAMULUS_PROCESSING_GUARANTEE": chosen.guarantee}
    with tempfile.TemporaryDirectory(prefix=f"famulus-soak-{name}-", dir=chosen.folder) as folder:
        with contextlib.ExitStack() as stack:
            fleets = [
                stack.enter_context(fleet(Path(folder, log), log, chosen.workers, env, hasty=chosen.hasty))
                for log in chosen.logs
            ]
            try:
                flat = PROGRAMS[name](chosen, fleets)
            except (
                AssertionError,
                FamulusError,
            ) as error:  # a worker ended, say: what was measured until then has been printed
                print(error)
                flat = False
    print(f"{name}: {'flat' if flat else 'NOT FLAT'}", flush=True)
    return flat


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"{' or '.join(PROGRAMS)}; all, one after the other"
    )
    parser.add_argument("--minutes", type=float, default=60, help="of idle and of traffic")
    parser.add_argument("--logs", nargs="+", choices=LOGS, default=list(LOGS), help="side by side")
    parser.add_argument(
        "--workers", type=int, default=2, help="on each log; on the embedded one all but the first are spares"
    )
    parser.add_argument("--store", choices=("memory", "rocksdb"), default="memory")
    parser.add_argument("--guarantee", choices=("exactly_once", "at_least_once"), default="exactly_once")
    parser.add_argument(
        "--hasty",
        action="store_true",
        help="a Kafka that forgets within seconds what it otherwise forgets within a week",
    )
    parser.add_argument("--rate", type=float, default=500, help="transactions a second, as traffic")
    parser.add_argument("--every", type=float, default=10, help="seconds between two looks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where logs and state go meanwhile")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.programs if name not in PROGRAMS]
    if unknown:
        parser.error(f"no such program: {unknown[0]}; there are {', '.join(PROGRAMS)}")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that is told to end is no news here
    try:
        flat = [one_program(name, chosen) for name in chosen.programs or PROGRAMS]
    except NoKafka as error:
        sys.exit(str(error))
    return 0 if all(flat) else 1


if __name__ == "__main__":
    sys.exit(main())
