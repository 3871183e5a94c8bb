"""The standard work as a hand-written loop on confluent-kafka: dicts, a changelog, commits by hand, restored when partitions come.

What a careful engineer writes in an afternoon when no framework may cost anything: typed decoding in C, rules inline, dirty keys once per
commit.  It has no takeover of what was in flight, no dead letters, no metrics, no rules that change.
"""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.bench.peers.work import KEEP_MS, WINDOW_MS, alert, fired, variable

History = list[tuple[int, float]]


class Transaction(msgspec.Struct, gc=False):
    transaction_id: str
    user_id: str
    amount: float
    timestamp: int
    merchant: str
    country: str


def remember(history: dict[str, History], tx: Transaction) -> int:
    """Add a transaction to its user's history; how many lie in its window."""
    timestamp = tx.timestamp
    mine = history.get(tx.user_id)
    if mine is None:
        mine = history[tx.user_id] = []
    mine.append((timestamp, tx.amount))
    if mine[0][0] <= timestamp - KEEP_MS:
        mine[:] = [entry for entry in mine if entry[0] > timestamp - KEEP_MS]
    if len(mine) <= 5:
        return len(mine)
    low = timestamp - WINDOW_MS
    count = 0
    for entry in mine:
        if low < entry[0] <= timestamp:
            count += 1
    return count


class Loop:
    def __init__(self) -> None:
        bootstrap = {"bootstrap.servers": variable("BOOTSTRAP")}
        self.app_id = variable("APP_ID")
        self.input = variable("INPUT")
        self.alerts = variable("ALERTS")
        self.changelog = f"{self.app_id}-changelog"
        self.exactly_once = variable("GUARANTEE") == "exactly_once"
        self.interval = int(variable("COMMIT_MS")) / 1000
        self.bootstrap = bootstrap
        self.consumer = Consumer(
            {
                **bootstrap,
                "group.id": self.app_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                "max.partition.fetch.bytes": 4 << 20,
                "queued.max.messages.kbytes": 65_536,
            }
        )
        transactional = {"transactional.id": self.app_id} if self.exactly_once else {"enable.idempotence": True}
        self.producer = Producer(
            {
                **bootstrap,
                **transactional,
                "linger.ms": int(variable("LINGER_MS")),
                "batch.num.messages": 10_000,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        if self.exactly_once:
            self.producer.init_transactions(30)
        self.history: dict[int, dict[str, History]] = {}
        self.dirty: dict[int, set[str]] = {}
        self.next: dict[int, int] = {}
        self.running = True

    def restore(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Read the changelog of what has been assigned to its end."""
        reader = Consumer(
            {
                **self.bootstrap,
                "group.id": f"{self.app_id}-restore",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        decode = msgspec.msgpack.Decoder(History).decode
        for assigned in partitions:
            self.history[assigned.partition] = {}
            self.dirty[assigned.partition] = set()
        left = {assigned.partition for assigned in partitions}
        reader.assign([TopicPartition(self.changelog, number, 0) for number in left])
        while left:
            for message in reader.consume(10_000, 0.1):
                error = message.error()
                if error is None:
                    self.history[message.partition()][message.key().decode()] = decode(message.value())
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
        reader.close()

    def run(self) -> None:
        self.consumer.subscribe([self.input], on_assign=self.restore)
        decode = msgspec.json.Decoder(Transaction).decode
        encode = msgspec.json.Encoder().encode
        consume, produce = self.consumer.consume, self.producer.produce
        due = 0.0
        open_ = False
        while self.running:
            for message in consume(4_000, 0.005):
                error = message.error()
                if error is not None:
                    raise KafkaException(error)
                if not open_:
                    open_ = True
                    due = time.monotonic() + self.interval
                    if self.exactly_once:
                        self.producer.begin_transaction()
                partition = message.partition()
                tx = decode(message.value())
                in_window = remember(self.history[partition], tx)
                self.dirty[partition].add(tx.user_id)
                for rule_id in fired(tx.amount, tx.country, tx.merchant, in_window):
                    value = encode(alert(rule_id, tx.user_id, tx.transaction_id, tx.timestamp))
                    produce(self.alerts, value, message.key(), partition)
                self.next[partition] = message.offset() + 1
            self.producer.poll(0)
            if open_ and time.monotonic() >= due:
                self.commit()
                open_ = False
        if open_:
            self.commit()
        self.consumer.close()

    def commit(self) -> None:
        encode = msgspec.msgpack.Encoder().encode
        for partition, keys in self.dirty.items():
            history = self.history[partition]
            for number, key in enumerate(keys):
                self.producer.produce(self.changelog, encode(history[key]), key.encode(), partition)
                if number % 10_000 == 0:
                    self.producer.poll(0)
            keys.clear()
        offsets = [TopicPartition(self.input, partition, offset) for partition, offset in self.next.items()]
        if self.exactly_once:
            self.producer.send_offsets_to_transaction(offsets, self.consumer.consumer_group_metadata(), 30)
            self.producer.commit_transaction(30)
        else:
            if self.producer.flush(30):
                raise TimeoutError("the broker did not take the outputs within 30 s")
            self.consumer.commit(offsets=offsets, asynchronous=False)

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.running = False


def main() -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin: Any = AdminClient({"bootstrap.servers": variable("BOOTSTRAP")})
    topic = NewTopic(f"{variable('APP_ID')}-changelog", 4, 1, config={"cleanup.policy": "compact"})
    for future in admin.create_topics([topic]).values():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    loop = Loop()
    signal.signal(signal.SIGTERM, loop.stop)
    loop.run()


if __name__ == "__main__":
    main()
