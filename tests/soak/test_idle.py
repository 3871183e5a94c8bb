"""Some seconds of nothing on both logs; ``make soak`` is the hour."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.soak import idle
from tests.soak.fleet import LOGS, fleet
from tests.soak.verdict import Limits

#: Few seconds, beside other tests: a leak of a byte is not found here, one of a megabyte in a few looks is.
ROUGH = Limits(memory_mb=3, cpu=0.2, cpu_rise=0.1)


@pytest.mark.slow
def test_with_nothing_to_do_nothing_grows_and_the_next_transaction_is_judged(tmp_path: Path, kafka_url: str) -> None:
    said: list[str] = []
    plan = idle.Plan(seconds=16, every=1, burst=500, seed=7, limits=ROUGH)
    with contextlib.ExitStack() as stack:
        fleets = [
            stack.enter_context(fleet(tmp_path / log, log, 1, {}, broker=kafka_url if log == "kafka" else None))
            for log in LOGS
        ]
        outcomes = asyncio.run(idle.run(fleets, plan, said.append))
    assert [outcome.flat for outcome in outcomes] == [True, True], (outcomes, said)
    assert [outcome.report.transactions for outcome in outcomes] == [1000, 1000]
    assert all(outcome.report.expected > 100 for outcome in outcomes)
