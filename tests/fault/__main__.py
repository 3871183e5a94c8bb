"""``make faults``: the long campaign, reported as a table.  ``--kills``, ``--seeds`` and ``--count`` change its size."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fault.campaign import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs, each with a log of its own")
    parser.add_argument("--first", type=int, default=1, help="first seed")
    parser.add_argument("--kills", type=int, default=20, help="kills per run")
    parser.add_argument("--count", type=int, default=30_000, help="transactions per run")
    parser.add_argument("--broker", help="an existing broker; without it an embedded log per run")
    chosen = parser.parse_args()
    exact = True
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        with tempfile.TemporaryDirectory(prefix="famulus-faults-") as folder:
            report = run(Path(folder), seed=seed, kills=chosen.kills, count=chosen.count, broker=chosen.broker)
        print(report.row(), dict(report.kinds), flush=True)
        exact = exact and report.exact
    print("exact" if exact else "NOT EXACT")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
