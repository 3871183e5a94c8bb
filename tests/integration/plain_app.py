"""A plain Faust application, as somebody who knows nothing of lanes would write it."""

from __future__ import annotations

import json
import os
from typing import Any

import faust

app = faust.App(
    "plain",
    broker=os.environ["FAMULUS_BROKER"],
    processing_guarantee=os.environ.get("GUARANTEE", "exactly_once"),
    store="memory://",
    datadir=os.environ["FAMULUS_DATA_DIR"],
    broker_commit_interval=0.1,
    topic_partitions=4,
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
payments = app.topic("payments", partitions=4, **raw)
limits = app.topic("limits", partitions=1, **raw)
results = app.topic("results", partitions=4, **raw)

counts = app.Table("counts", default=int, partitions=4)
recent = app.Table("recent", default=int, partitions=4).hopping(60.0, 30.0, expires=3600.0)
echoes = app.topic("echoes", partitions=4, **raw)
limit_of = app.GlobalTable("limit_of", default=int, partitions=1)


@app.agent(limits)
async def learn(stream: Any) -> None:
    async for event in stream.events():
        limit_of[event.key.decode()] = int(event.value)


@app.agent(payments)
async def count(stream: Any) -> None:
    async for event in stream.events():
        user = event.key.decode()
        counts[user] += 1
        recent[user] += 1
        result = {
            "user": user,
            "value": event.value.decode(),
            "count": counts[user],
            "recent": recent[user].value(event),
            "limit": limit_of[user],
        }
        await results.send(key=event.key, value=json.dumps(result).encode())


if os.environ.get("LATE"):
    conductor: Any = app.topics
    conductor._resubscribe_sleep_lock_seconds = 0.5  # Faust waits 45 s for further changes

    @app.task  # type: ignore[untyped-decorator]
    async def echo() -> None:
        """A stream that begins when the worker is at work already: the subscription grows."""
        async for event in app.topic("late", partitions=4, **raw).stream().events():
            await echoes.send(key=event.key, value=event.value)
