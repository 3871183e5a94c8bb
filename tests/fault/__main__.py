"""``make faults``: the long campaign, a row per run; the exit code is 0 if every run was exact.

Each run has a log of its own: an embedded one, or a broker that is started for it.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from aiokafka.errors import KafkaError

from models.errors import FamulusError
from tests.fault import campaign, jobs
from tests.fault.campaign import Plan
from tests.fault.report import HEADER, Report
from tests.fault.scenarios import SCENARIOS
from tests.support.kafka import KafkaBroker

STORES = ("memory", "rocksdb")
GUARANTEES = ("exactly_once", "at_least_once")


def plans(chosen: argparse.Namespace) -> list[tuple[str, Plan]]:
    """(transport, plan) of every run; seeds count up over all of them."""
    seeds = itertools.count(chosen.first)
    found = []
    for _ in range(chosen.rounds):
        for transport in chosen.transports:
            # The embedded log has one mode, and further workers on it are hot spares.
            guarantees = chosen.guarantees if transport == "kafka" else ["exactly_once"]
            for guarantee, store, workers in itertools.product(guarantees, chosen.stores, chosen.workers):
                found.append(
                    (
                        transport,
                        Plan(
                            seed=next(seeds),
                            kills=chosen.kills,
                            count=chosen.count,
                            rate=chosen.rate,
                            waiting=chosen.waiting,
                            guarantee=guarantee,
                            store=store,
                            workers=workers,
                        ),
                    )
                )
    return found


def runs(chosen: argparse.Namespace) -> Iterator[Callable[[], Report]]:
    """Every run, still to be done."""
    if chosen.scenarios is None:
        kills_of_fraud = [] if chosen.only_jobs else plans(chosen)
        for transport, plan in kills_of_fraud:
            yield functools.partial(one_run, transport, plan, chosen.keep)
        seeds = itertools.count(chosen.first + len(kills_of_fraud))
        for _, transport, store in itertools.product(range(chosen.rounds), chosen.transports, chosen.stores):
            yield functools.partial(jobs_run, transport, store, next(seeds), chosen)
    if not (chosen.without_scenarios or chosen.only_jobs):
        for name in chosen.scenarios or SCENARIOS:
            work = functools.partial(SCENARIOS[name], seed=chosen.first)
            yield functools.partial(in_folder, f"{name} seed {chosen.first}", chosen.first, work, chosen.keep)


def one_run(transport: str, plan: Plan, keep: Path | None) -> Report:
    """A run in a folder of its own, which stays for a look if the run was not exact."""

    def work(folder: Path) -> Report:
        if transport == "embedded":
            return campaign.run(folder, plan)
        with KafkaBroker(folder / "kafka") as broker:
            return campaign.run(folder, plan, broker=broker.url)

    return in_folder(plan.name(transport), plan.seed, work, keep)


def jobs_run(transport: str, store: str, seed: int, chosen: argparse.Namespace) -> Report:
    """As :func:`one_run`, with the input of all jobs but fraud."""
    name = f"all other jobs {transport} {store}"

    def work(folder: Path) -> Report:
        def killed(broker: str | None) -> Report:
            found = jobs.run(
                folder, seed=seed, kills=chosen.kills, count=chosen.events, broker=broker, FAMULUS_STORE=f"{store}://"
            )
            return found.as_report(name)

        if transport == "embedded":
            return killed(None)
        with KafkaBroker(folder / "kafka") as broker:
            return killed(broker.url)

    return in_folder(name, seed, work, chosen.keep)


def in_folder(name: str, seed: int, work: Callable[[Path], Report], keep: Path | None) -> Report:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="famulus-faults-", dir=keep))
    try:
        report = work(folder)
    except (AssertionError, OSError, FamulusError, KafkaError, subprocess.SubprocessError) as error:
        report = Report(seed=seed, transactions=0, name=name, lost=1, details=[str(error)])
    if report.exact:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        report.details.append(f"see {folder}")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault", description=__doc__)
    parser.add_argument("--scenarios", nargs="*", choices=sorted(SCENARIOS), help="only these (all, if none is named)")
    parser.add_argument("--without-scenarios", action="store_true", help="kills only")
    parser.add_argument("--transports", nargs="+", choices=("embedded", "kafka"), default=["embedded", "kafka"])
    parser.add_argument("--guarantees", nargs="+", choices=GUARANTEES, default=list(GUARANTEES))
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=1, help="each combination so often, with seeds of its own")
    parser.add_argument("--first", type=int, default=1, help="first seed")
    parser.add_argument("--kills", type=int, default=20, help="faults per run")
    parser.add_argument("--count", type=int, default=100_000, help="transactions per run, at most")
    parser.add_argument("--rate", type=float, default=400, help="transactions a second")
    parser.add_argument(
        "--waiting",
        type=int,
        default=0,
        help="transactions stored before the start, so that workers are killed while far behind",
    )
    parser.add_argument("--events", type=int, default=8_000, help="user events per run of the other jobs")
    parser.add_argument("--only-jobs", action="store_true", help="only the runs of the other jobs")
    parser.add_argument("--keep", type=Path, help="where the folders of runs go; those that are not exact stay")
    chosen = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers go away, and that is no news here
    print(HEADER, flush=True)
    reports: list[Report] = []
    for run in runs(chosen):
        reports.append(run())
        print(reports[-1].row(), flush=True)
    kinds: Counter[str] = Counter()
    for report in reports:
        kinds.update(report.kinds)
    exact = all(report.exact for report in reports)
    print(f"{sum(report.kills for report in reports)} faults: {dict(kinds.most_common())}")
    print("exact" if exact else "NOT EXACT")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
