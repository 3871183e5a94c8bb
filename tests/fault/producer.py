"""Appends transactions from a process of its own: ``BROKER COUNT SEED RATE WAITING``, at most COUNT of them, the first WAITING at once, then RATE a second,
until SIGTERM.

A broker that is away is waited for.  What was stored without being acknowledged then comes twice: the oracle reads the topic, so it sees
the same.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time

from app.transport.brokers import connect
from app.transport.client import NewRecord
from models.errors import LogError
from models.topics import TopicNames
from tests.support.workload import transactions

PATIENCE_SECONDS = 120.0


async def produce(broker: str, count: int, seed: int, rate: float, waiting: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    started = answered = time.monotonic()
    sent = 0
    part: list[NewRecord] = []
    size = max(1, min(100, int(rate / 5)))
    left = transactions(count, seed=seed, users=500)
    while not ended.is_set():
        try:
            async with connect(broker) as client:
                while not ended.is_set():
                    if not part:
                        part = [
                            NewRecord(user.encode(), value)
                            for user, value in itertools.islice(left, 1000 if sent < waiting else size)
                        ]
                        if not part:
                            return
                    await client.append(TopicNames.TRANSACTIONS, part)
                    sent += len(part)
                    part = []
                    answered = time.monotonic()
                    if sent <= waiting:
                        started = answered
                    else:
                        await _pause(ended, started + (sent - waiting) / rate - answered)
        except LogError as error:
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
            print(f"producer: {error}; trying again", file=sys.stderr)
            await _pause(ended, 0.3)


async def _pause(ended: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(ended.wait(), max(0.0, seconds))
    except TimeoutError:
        return


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])))
