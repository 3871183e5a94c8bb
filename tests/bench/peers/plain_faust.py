"""The standard work as one writes it in plain Faust: an agent, a table of histories, alerts to a topic."""

from __future__ import annotations

from typing import Any

import faust

from tests.bench.peers.work import KEEP_MS, WINDOW_MS, alert, fired, variable

app = faust.App(
    variable("APP_ID"),
    broker=variable("BROKER"),
    store="memory://",
    datadir=variable("STATE_DIR"),
    processing_guarantee=variable("GUARANTEE"),
    broker_commit_interval=int(variable("COMMIT_MS")) / 1000,
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


transactions = app.topic(variable("INPUT"), key_type=bytes, value_type=Transaction, partitions=4)
alerts = app.topic(variable("ALERTS"), key_type=bytes, value_serializer="json", partitions=4)
history: Any = app.Table("history", default=list, partitions=4, key_type=str)


@app.agent(transactions)
async def fraud(stream: Any) -> None:
    async for tx in stream:
        kept = history[tx.user_id]
        newest = max((entry[0] for entry in kept), default=tx.timestamp)
        kept = [entry for entry in kept if entry[0] > newest - KEEP_MS]
        kept.append((tx.timestamp, tx.amount))
        history[tx.user_id] = kept
        in_window = sum(1 for entry in kept if tx.timestamp - WINDOW_MS < entry[0] <= tx.timestamp)
        for rule_id in fired(tx.amount, tx.country, tx.merchant, in_window):
            await alerts.send(
                key=tx.user_id.encode(), value=alert(rule_id, tx.user_id, tx.transaction_id, tx.timestamp)
            )


if __name__ == "__main__":
    app.main()
