"""The standard work on Quix Streams: a stateful function on a dataframe; state in RocksDB with a changelog topic."""

from __future__ import annotations

from typing import Any

from quixstreams import Application, State

from tests.bench.peers.work import KEEP_MS, WINDOW_MS, alert, fired, variable


def judge(tx: dict[str, Any], state: State) -> list[dict[str, object]]:
    timestamp = tx["timestamp"]
    kept = state.get("history", [])
    newest = max((entry[0] for entry in kept), default=timestamp)
    kept = [entry for entry in kept if entry[0] > newest - KEEP_MS]
    kept.append([timestamp, tx["amount"]])
    state.set("history", kept)
    in_window = sum(1 for entry in kept if timestamp - WINDOW_MS < entry[0] <= timestamp)
    return [
        alert(rule_id, tx["user_id"], tx["transaction_id"], timestamp)
        for rule_id in fired(tx["amount"], tx["country"], tx["merchant"], in_window)
    ]


def main() -> None:
    app = Application(
        broker_address=variable("BOOTSTRAP"),
        consumer_group=variable("APP_ID"),
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once" if variable("GUARANTEE") == "exactly_once" else "at-least-once",
        commit_interval=int(variable("COMMIT_MS")) / 1000,
        state_dir=variable("STATE_DIR"),
        loglevel="WARNING",
    )
    transactions = app.topic(variable("INPUT"), key_deserializer="str", value_deserializer="json")
    alerts = app.topic(variable("ALERTS"), key_serializer="str", value_serializer="json")
    app.dataframe(transactions).apply(judge, stateful=True, expand=True).to_topic(alerts)
    app.run()


if __name__ == "__main__":
    main()
