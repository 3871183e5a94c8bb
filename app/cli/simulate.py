"""``famulus simulate``: traffic with planted fraud, into the log."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import IO

import click
from click.utils import LazyFile

from app.activity import Happening
from app.cli.console import Command, Failure, broker, json_option, print_json, run, settings_of_environment, to_json
from app.settings import Settings
from app.simulate import Live, Past, Scenario
from app.traffic import TOPICS, Item, Made, produce_all, produce_live, traffic
from models.time import SystemClock
from models.topics import TopicNames

#: What is counted as planted.
SCENARIOS = [str(one) for one in (*Scenario, *Happening) if one != Scenario.NORMAL]
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
    """Produce card transactions with planted fraud, and visits of users with orders and payments.

    \b
    Example: famulus simulate --rate 50
             famulus simulate --count 10000 --seed 7 --labels labels.jsonl

    Users have their own spending level, country and merchants.  Planted are: high_amount (above 10,000), burst (seven payments
    within minutes), compromised_terminal and stolen_card (amounts that jump, abroad).  --labels writes a line
    {"transaction_id","scenario"} for each planted one.

    Beside them users visit a shop (user-events), order (orders) and pay (payments), one visit for every 20 transactions.  Planted are:
    unpaid_order, late_payment and stray_payment, with the ids of the order or payment, and takeover (a password change after three
    failed log-ins).

    With --rate, transactions are made now, as many a second.  Without, as fast as possible, with event times that spread over the
    past, more by day than by night, and end about now.
    """
    settings = settings_of_environment()
    seed = random.randrange(1 << 32) if seed is None else seed
    records, planted = Counter[str](), Counter[str]()

    def made(batch: Sequence[Item]) -> None:
        records.update(item.topic for item in batch)
        odd = [item for item in batch if item.scenario != Scenario.NORMAL]
        planted.update(str(item.scenario) for item in odd)
        if labels is not None:
            labels.write("".join(to_json(item.label) + "\n" for item in odd))
            labels.flush()

    if isinstance(labels, LazyFile):
        labels.open()  # before there are records without labels
    stopped = False
    try:
        run(_simulate(settings, rate, count, seed, made))
    except KeyboardInterrupt:
        # Without --count that is how it ends.
        stopped = count is not None
    produced = records[TopicNames.TRANSACTIONS]
    counts = {name: planted[name] for name in SCENARIOS}
    if as_json:
        answer = {"topic": TopicNames.TRANSACTIONS, "produced": produced, "seed": seed, "planted": counts}
        print_json({**answer, "topics": {topic: records[topic] for topic in TOPICS}})
    else:
        what = ", ".join(f"{number} {name}" for name, number in counts.items())
        click.echo(f"{produced} transactions produced with seed {seed}; planted: {what}")
        others = ", ".join(f"{records[topic]} {topic}" for topic in TOPICS if topic != TopicNames.TRANSACTIONS)
        click.echo(f"beside them: {others}")
    if stopped:
        raise Failure(f"interrupted after {produced} of {count}")


async def _simulate(settings: Settings, rate: float | None, count: int | None, seed: int, made: Made) -> None:
    now_ms = SystemClock().now_ms()
    async with broker(settings) as client:
        if rate is None:
            await produce_all(client, traffic(seed, Past.ending_at(now_ms, count or DEFAULT_COUNT)), made)
        else:
            await produce_live(client, traffic(seed, Live(count, now_ms, rate)), made)
