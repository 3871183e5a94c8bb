"""Traffic at a steady rate, and the alerts as a consumer sees them; two processes beside the system that is measured.

    paced produce BOOTSTRAP TOPIC RATE FILE [FIRST]    appends from transaction FIRST until SIGTERM; FILE gets (number, time) of each produce()
    paced watch   BOOTSTRAP TOPIC FILE                 FILE gets (transaction number, rule, time) of each alert when it is visible, read committed

Times are of the monotonic clock, which all processes of a machine share.  Both write their file as lines of JSON: ``watch`` as it goes.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from types import FrameType

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.support.workload import transactions

#: More than anybody waits for.
FOREVER = 100_000_000


class Ended:
    """Set by SIGTERM."""

    def __init__(self) -> None:
        self.yes = False
        signal.signal(signal.SIGTERM, self.now)

    def now(self, number: int, frame: FrameType | None) -> None:
        self.yes = True


def produce(bootstrap: str, topic: str, rate: float, file: str, first: int) -> None:
    ended = Ended()
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": 1,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    source = itertools.islice(transactions(FOREVER), first, None)
    started = time.monotonic()
    times: list[float] = []
    while not ended.yes:
        due = int((time.monotonic() - started) * rate)
        while len(times) < due:
            user, value = next(source)
            times.append(time.monotonic())
            producer.produce(topic, value, user.encode())
        producer.poll(0)
        time.sleep(0.002)
    producer.flush(30)
    with open(file, "wb") as out:
        encode = msgspec.json.Encoder().encode
        out.writelines(encode((number, at)) + b"\n" for number, at in enumerate(times, first))


def watch(bootstrap: str, topic: str, file: str) -> None:
    ended = Ended()
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-watch",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(4)])
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    with open(file, "wb") as out:
        while not ended.yes:
            # poll() returns at the first record; consume() alone would wait for the whole of its time.
            message = consumer.poll(0.05)
            if message is None:
                continue
            at = time.monotonic()
            for one in (message, *consumer.consume(2000, 0)):
                error = one.error()
                if error is not None:
                    raise KafkaException(error)
                alert = decode(one.value())
                out.write(encode((int(alert["transaction_id"][1:]), alert["rule_id"], at)) + b"\n")
            out.flush()
    consumer.close()


def main() -> None:
    what, bootstrap, topic, *rest = sys.argv[1:]
    if what == "produce":
        produce(bootstrap, topic, float(rest[0]), rest[1], int(rest[2]) if len(rest) > 2 else 0)
    elif what == "watch":
        watch(bootstrap, topic, rest[0])
    else:
        raise SystemExit(f"{what}: produce or watch")


if __name__ == "__main__":
    main()
