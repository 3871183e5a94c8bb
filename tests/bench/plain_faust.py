"""The standard work as one writes it in plain Faust: agents, a table of histories, alerts to a topic."""

from __future__ import annotations

import os

import faust

START = "user-transactions", "fraud-rules", "fraud-alerts"

app = faust.App(
    os.environ["FAMULUS_APP_ID"],
    broker=os.environ["FAMULUS_BROKER"],
    store="memory://",
    datadir=os.environ["FAMULUS_DATA_DIR"] + "-plain",
    processing_guarantee=os.environ.get("PLAIN_GUARANTEE", "exactly_once"),
    broker_commit_interval=0.05,
    consumer_auto_offset_reset="earliest",
    topic_replication_factor=1,
    topic_disable_leader=True,
    web_enabled=False,
    stream_recovery_delay=0.0,
)


class Transaction(faust.Record, serializer="json"):
    transaction_id: str
    user_id: str
    amount: float
    timestamp: int
    merchant: str
    country: str


transactions = app.topic(START[0], key_type=bytes, value_type=Transaction, partitions=4)
alerts = app.topic(START[2], key_type=bytes, value_type=dict, partitions=4)
history = app.Table("history", default=list, partitions=4, key_type=str)

LIMITS = range(11_000, 17_000, 1_000)


def fired(tx: Transaction, seen: list[tuple[int, float]]) -> list[str]:
    found = []
    if tx.amount > 10_000:
        found.append("HIGH_VALUE")
    if len(seen) > 5:
        found.append("VELOCITY")
    found += [f"OVER_{limit}" for limit in LIMITS if tx.amount > limit]
    if tx.country == "KP":
        found.append("COUNTRY_KP")
    if tx.merchant == "m666":
        found.append("MERCHANT_666")
    return found


@app.agent(transactions)
async def fraud(stream: faust.Stream[Transaction]) -> None:
    async for tx in stream:
        seen = [one for one in history[tx.user_id] if one[0] > tx.timestamp - 600_000]
        seen.append((tx.timestamp, tx.amount))
        history[tx.user_id] = seen
        window = [one for one in seen if one[0] <= tx.timestamp]
        for rule_id in fired(tx, window):
            await alerts.send(
                key=tx.user_id.encode(),
                value={
                    "rule_id": rule_id,
                    "user_id": tx.user_id,
                    "transaction_id": tx.transaction_id,
                    "timestamp": tx.timestamp,
                },
            )


if __name__ == "__main__":
    app.main()
