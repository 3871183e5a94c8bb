"""``famulus simulate``: traffic with planted fraud, into the log."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import IO

import click

from app.cli.console import Command, Failure, broker, json_option, print_json, run, settings_of_environment, to_json
from app.settings import Settings
from app.simulate import Live, Past, Scenario, Simulated
from app.simulate import simulate as simulated
from app.traffic import Made, produce_all, produce_live
from models.time import SystemClock
from models.topics import TopicNames

#: Transactions without --count and --rate.
DEFAULT_COUNT = 10_000


@click.command(cls=Command)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Transactions per second, made now, until Ctrl-C or --count.",
)
@click.option("--count", type=click.IntRange(min=1), help=f"Stop after so many (without --rate: {DEFAULT_COUNT}).")
@click.option(
    "--seed", type=click.IntRange(min=0), help="The same seed makes the same transactions (default: a random one)."
)
@click.option(
    "--labels",
    type=click.File("w", encoding="utf-8", lazy=True),
    help="Write which transactions are planted fraud, and why.",
)
@json_option
def simulate(rate: float | None, count: int | None, seed: int | None, labels: IO[str] | None, as_json: bool) -> None:
    """Produce card transactions with planted fraud to user-transactions.

    \b
    Example: famulus simulate --rate 50
             famulus simulate --count 10000 --seed 7 --labels labels.jsonl

    Users have their own spending level, country and merchants.  Planted are: high_amount (above 10,000), burst (seven payments
    within minutes), compromised_terminal and stolen_card (amounts that jump, abroad).  --labels writes a line
    {"transaction_id","scenario"} for each planted one.

    With --rate, transactions are made now, as many a second.  Without, as fast as possible, with event times that spread over the
    past, more by day than by night, and end about now.
    """
    settings = settings_of_environment()
    seed = random.randrange(1 << 32) if seed is None else seed
    counts = Counter[Scenario]()

    def made(batch: Sequence[Simulated]) -> None:
        counts.update(scenario for _, scenario in batch)
        if labels is not None:
            labels.write("".join(_label(each) for each in batch if each.scenario is not Scenario.NORMAL))
            labels.flush()

    stopped = False
    try:
        run(_simulate(settings, rate, count, seed, made))
    except KeyboardInterrupt:
        # Without --count that is how it ends.
        stopped = count is not None
    planted = {scenario.value: counts[scenario] for scenario in Scenario if scenario is not Scenario.NORMAL}
    if as_json:
        print_json({"topic": TopicNames.TRANSACTIONS, "produced": counts.total(), "seed": seed, "planted": planted})
    else:
        what = ", ".join(f"{number} {name}" for name, number in planted.items())
        click.echo(f"{counts.total()} transactions produced with seed {seed}; planted: {what}")
    if stopped:
        raise Failure(f"interrupted after {counts.total()} of {count}")


async def _simulate(settings: Settings, rate: float | None, count: int | None, seed: int, made: Made) -> None:
    now_ms = SystemClock().now_ms()
    async with broker(settings) as client:
        if rate is None:
            await produce_all(client, simulated(seed, Past.ending_at(now_ms, count or DEFAULT_COUNT)), made)
        else:
            await produce_live(client, simulated(seed, Live(count, now_ms, rate)), made)


def _label(made: Simulated) -> str:
    return to_json({"transaction_id": made.transaction.transaction_id, "scenario": made.scenario}) + "\n"
