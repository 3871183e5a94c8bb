"""``famulus simulate``: traffic with planted fraud, into the log."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import IO

import click
import msgspec

from app.cli.console import (
    Command,
    broker,
    complain,
    json_option,
    print_json,
    run,
    settings_of_environment,
    to_json,
)
from app.producing import ensure_topic
from app.settings import Settings
from app.simulate import Live, Past, Scenario, Simulated
from app.simulate import simulate as simulated
from app.transport.client import BrokerClient, NewRecord
from models.time import SystemClock
from models.topics import TopicNames

#: Transactions without --count and --rate.
DEFAULT_COUNT = 10_000
BATCH = 2_000
#: Seconds between two looks at what is due, with --rate.
TICK = 0.05


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
    made = Counter[Scenario]()
    stopped = False
    try:
        run(_simulate(settings, rate, count, seed, labels, made))
    except KeyboardInterrupt:
        stopped = True
        if count is not None:
            complain(f"interrupted after {made.total()} of {count}")
    planted = {scenario.value: made[scenario] for scenario in Scenario if scenario is not Scenario.NORMAL}
    if as_json:
        print_json({"topic": TopicNames.TRANSACTIONS, "produced": made.total(), "seed": seed, "planted": planted})
    else:
        what = ", ".join(f"{number} {name}" for name, number in planted.items())
        click.echo(f"{made.total()} transactions produced with seed {seed}; planted: {what}")
    if stopped and count is not None:
        raise click.exceptions.Exit(1)


async def _simulate(
    settings: Settings,
    rate: float | None,
    count: int | None,
    seed: int,
    labels: IO[str] | None,
    made: Counter[Scenario],
) -> None:
    now_ms = SystemClock().now_ms()
    async with broker(settings) as client:
        await ensure_topic(client, TopicNames.TRANSACTIONS)
        if rate is None:
            transactions = simulated(seed, Past.ending_at(now_ms, count or DEFAULT_COUNT))
            while batch := list(islice(transactions, BATCH)):
                await _append(client, batch, labels, made)
        else:
            await _live(client, simulated(seed, Live(count, now_ms, rate)), labels, made)


async def _live(
    client: BrokerClient, transactions: Iterator[Simulated], labels: IO[str] | None, made: Counter[Scenario]
) -> None:
    """Each transaction once its time has come."""
    clock = SystemClock()
    following = next(transactions, None)
    while following is not None:
        batch: list[Simulated] = []
        now_ms = clock.now_ms()
        while following is not None and following.transaction.timestamp <= now_ms and len(batch) < BATCH:
            batch.append(following)
            following = next(transactions, None)
        await _append(client, batch, labels, made)
        if following is not None and len(batch) < BATCH:
            await asyncio.sleep(min(TICK, max(0.0, (following.transaction.timestamp - clock.now_ms()) / 1000)))


async def _append(
    client: BrokerClient, batch: list[Simulated], labels: IO[str] | None, made: Counter[Scenario]
) -> None:
    if not batch:
        return
    records = [NewRecord(t.user_id.encode(), _encode(t)) for t, _ in batch]
    await client.append(TopicNames.TRANSACTIONS, records)
    made.update(scenario for _, scenario in batch)
    if labels is not None:
        for transaction, scenario in batch:
            if scenario is not Scenario.NORMAL:
                labels.write(to_json({"transaction_id": transaction.transaction_id, "scenario": scenario}) + "\n")
        labels.flush()


_encode = msgspec.json.Encoder().encode
