"""A real worker on a real Kafka: what it writes, how it connects, and how it ends when it cannot go on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from app.transport.brokers import connect
from app.transport.client import NewRecord
from app.transport.credentials import OPEN, Credentials, SaslMechanism, SecurityProtocol
from models.errors import LogUnavailable
from models.topics import CATALOGUE
from tests.support import secure_kafka
from tests.support.kafka import KafkaBroker, NoKafka
from tests.support.ports import free_ports
from tests.support.secure_kafka import On, Right, refuse
from tests.support.waiting import until
from tests.support.worker import BIN, Worker

RULE = {
    "rule_id": "HIGH_VALUE",
    "description": "Transaction amount > $10,000",
    "active": True,
    "risk_level": "HIGH",
    "when": "amount > 10000.0",
}
NOW = int(time.time() * 1000)


def transaction(number: int) -> tuple[bytes, bytes]:
    user = f"user{number % 7}"
    value = {"transaction_id": f"t{number}", "user_id": user, "amount": 20_000.0, "timestamp": NOW}
    return user.encode(), json.dumps(value).encode()


async def seed(url: str, count: int, credentials: Credentials = OPEN) -> None:
    """Topics, one rule, and ``count`` transactions that it fires for."""
    async with connect(url, credentials) as client:
        for name in ("fraud-rules", "user-transactions", "fraud-alerts"):
            await client.create_topic(name, CATALOGUE[name].partitions, CATALOGUE[name].config)
        await client.append("fraud-rules", [NewRecord(b"HIGH_VALUE", json.dumps(RULE).encode())])
        await client.append("user-transactions", [NewRecord(*transaction(number)) for number in range(count)])


def alerts(worker: Worker, *, without: tuple[str, ...] = ()) -> list[str]:
    """Transactions that alerts were raised for, as the command line reads them."""
    done = subprocess.run(
        [str(BIN / "famulus"), "read", "fraud-alerts", "--from-beginning", "--until-end", "--json"],
        env={name: value for name, value in worker.env.items() if name not in without},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["value"]["transaction_id"] for line in done.stdout.splitlines()]


def ended(worker: Worker, within: float) -> str:
    """The log of a worker that ended by itself with exit code 1 in time."""
    assert worker.process is not None
    assert worker.process.wait(within) == 1, worker.log_text()[-3000:]
    return worker.log_text()


def test_outputs_and_changelog_are_written_in_transactions(tmp_path: Path, kafka_url: str) -> None:
    asyncio.run(seed(kafka_url, 50))
    with Worker(tmp_path, broker=kafka_url) as worker:
        until(lambda: len(alerts(worker)) == 50, within=30, what="fifty alerts")
        for topic in ("fraud-alerts", "famulus-fraud-changelog"):
            assert asyncio.run(batches_of(kafka_url, topic)) == {True}, topic
        assert worker.stop() == 0


async def batches_of(url: str, topic: str) -> set[bool]:
    """Whether the topic's record batches belong to transactions.  (A read of the log itself: no public interface tells.)"""
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=url.removeprefix("kafka://"), isolation_level="read_uncommitted", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        numbers = (await consumer._client.fetch_all_metadata()).partitions_for_topic(topic)
        consumer.assign([aiokafka.TopicPartition(topic, number) for number in numbers])
        found: set[bool] = set()
        deadline = time.monotonic() + 20
        while not found:
            assert time.monotonic() < deadline, f"{topic} is empty"
            await asyncio.sleep(0.05)
            for result in consumer._fetcher._records.values():
                records = result._partition_records._records
                while records.has_next():
                    found.add(bool(records.next_batch().is_transactional))
        return found
    finally:
        await consumer.stop()


def test_a_worker_reads_as_well_through_the_public_interface_of_its_client(tmp_path: Path, kafka_url: str) -> None:
    asyncio.run(seed(kafka_url, 60))
    script = (
        "import sys; from app.transport.kafka import internals; internals.UNSUPPORTED = 'aiokafka is another one'; "
        "from faust.cli.faust import cli; sys.argv = ['faust', '-A', 'app', 'worker', '-l', 'info']; cli()"
    )
    worker = Worker(tmp_path, broker=kafka_url, command=[sys.executable, "-c", script])
    with worker:
        until(lambda: len(alerts(worker)) == 60, within=30, what="sixty alerts")
        worker.kill()
        worker.start()
        worker.wait_ready()
        asyncio.run(seed(kafka_url, 20))
        until(lambda: len(alerts(worker)) == 80, within=30, what="twenty more, and none twice")
        assert "aiokafka is another one" in worker.log_text()
        assert worker.stop() == 0


def test_a_group_that_was_not_told_what_was_processed_is_told_at_the_next_start(tmp_path: Path, kafka_url: str) -> None:
    asyncio.run(seed(kafka_url, 30))
    script = (
        "import sys; from app.transport.kafka import sink; sink.OFFSET_COMMIT_SECONDS = 3600; "
        "from faust.cli.faust import cli; sys.argv = ['faust', '-A', 'app', 'worker', '-l', 'info']; cli()"
    )
    env = {"FAMULUS_PROCESSING_GUARANTEE": "at_least_once", "FAMULUS_JOBS": "fraud"}
    with Worker(tmp_path, broker=kafka_url, command=[sys.executable, "-c", script], **env) as worker:
        until(lambda: durable(worker) == 30, within=60, what="all thirty are durable")
        assert lag(worker) in (None, 30)
        worker.kill()
        worker.start()
        worker.wait_ready()
        until(lambda: lag(worker) == 0, within=60, what="no lag is shown")


def durable(worker: Worker) -> int:
    """Transactions that the fraud operator has processed, 0 while any of them is not durable."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=5) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines()]
    except (urllib.error.URLError, OSError):
        return 0
    values = {name: float(value) for name, _, value in lines if name.startswith("famulus_records_")}
    if any(value for name, value in values.items() if name.startswith("famulus_records_not_durable")):
        return 0
    return int(values.get('famulus_records_processed_total{operator="fraud"}', 0))


def command(worker: Worker, *arguments: str, code: int = 0) -> str:
    """What ``famulus`` prints with the settings of the worker."""
    done = subprocess.run(
        [str(BIN / "famulus"), *arguments], env=worker.env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def lag(worker: Worker) -> int | None:
    """What ``famulus topics`` says of the transactions."""
    found: int | None = {one["topic"]: one["lag"] for one in json.loads(command(worker, "topics", "--json"))}[
        "user-transactions"
    ]
    return found


@pytest.mark.parametrize("host", ["nowhere.invalid:9092", "closed"])
def test_a_worker_without_a_broker_says_so_and_ends(tmp_path: Path, host: str) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}" if host == "closed" else host
    with Worker(tmp_path, broker=f"kafka://{address}") as worker:
        text = ended(worker, within=60)
    assert "no connection to Kafka" in text
    assert "FAMULUS_BROKER" in text


def test_a_source_topic_that_disappears_ends_the_worker(tmp_path: Path, kafka_url: str) -> None:
    asyncio.run(seed(kafka_url, 10))
    with Worker(tmp_path, broker=kafka_url) as worker:
        worker.wait_ready()
        asyncio.run(delete(kafka_url, "user-transactions"))
        text = ended(worker, within=60)
    assert "FATAL" in text
    assert "user-transactions" in text


async def delete(url: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=url.removeprefix("kafka://"))
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()


# -- a broker that wants to know who is there


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    try:
        broker = secure_kafka.secure_broker(tmp_path_factory.mktemp("secure"))
        with broker:
            yield broker
    except NoKafka as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def test_a_worker_logs_in_over_tls(tmp_path: Path, secure: KafkaBroker) -> None:
    ca_file = secure.folder / "ca.pem"
    url = f"kafka://127.0.0.1:{secure.ports['TLS']}"
    credentials = Credentials(
        protocol=SecurityProtocol.SASL_SSL,
        username=secure_kafka.USER,
        password=secure_kafka.PASSWORD,
        ca_file=ca_file,
    )
    asyncio.run(seed(url, 30, credentials))
    password = tmp_path / "password"
    password.write_text(secure_kafka.PASSWORD + "\n")
    worker = Worker(
        tmp_path,
        broker=url,
        FAMULUS_KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        FAMULUS_KAFKA_SASL_USERNAME=secure_kafka.USER,
        FAMULUS_KAFKA_SASL_PASSWORD_FILE=str(password),
        FAMULUS_KAFKA_SSL_CAFILE=str(ca_file),
    )
    with worker:
        until(lambda: len(alerts(worker)) == 30, within=60, what="thirty alerts")
        assert worker.stop() == 0
        assert secure_kafka.PASSWORD not in worker.log_text()


def test_a_second_worker_of_the_same_name_ends_and_says_why_and_the_first_goes_on(
    tmp_path: Path, kafka_url: str
) -> None:
    name: dict[str, Any] = {
        "FAMULUS_APP_ID": "twice",
        "FAMULUS_JOBS": "fraud",
        "CONSUMER_GROUP_INSTANCE_ID": "one-name",
    }
    with Worker(tmp_path / "first", broker=kafka_url, **name) as first:
        first.wait_ready(60)
        with Worker(tmp_path / "second", broker=kafka_url, **name) as second:
            (fatal,) = [line for line in ended(second, within=30).splitlines() if "FATAL" in line]
            assert "FAMULUS_WEB_PORT" in fatal
        until(lambda: "FAMULUS_WEB_PORT" in first.log_text(), within=10, what="the first one says so, too")
        first.wait_ready(60)
        assert first.stop() == 0


@pytest.mark.parametrize("mechanism", [SaslMechanism.SCRAM_SHA_256, SaslMechanism.SCRAM_SHA_512])
async def test_a_client_proves_its_password_without_sending_it(secure: KafkaBroker, mechanism: SaslMechanism) -> None:
    credentials = Credentials(
        protocol=SecurityProtocol.SASL_PLAINTEXT,
        mechanism=mechanism,
        username=secure_kafka.SCRAM_USER,
        password=secure_kafka.SCRAM_PASSWORD,
    )
    async with connect(f"kafka://127.0.0.1:{secure.ports['SASL']}", credentials) as client:
        assert await client.create_topic(f"proved-by-{mechanism}", 1)


async def test_a_client_shows_a_certificate_of_its_own(secure: KafkaBroker) -> None:
    url = f"kafka://127.0.0.1:{secure.ports['MUTUAL']}"
    ca_file, cert_file, key_file = (secure.folder / name for name in ("ca.pem", "client.pem", "client.key"))
    credentials = Credentials(protocol=SecurityProtocol.SSL, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    async with connect(url, credentials) as client:
        await client.create_topic("certified", 1)
        assert await client.append("certified", [NewRecord(b"k", b"v")]) == [(0, 0)]
    with pytest.raises(LogUnavailable, match="FAMULUS_KAFKA_SECURITY_PROTOCOL"):
        async with connect(url, Credentials(protocol=SecurityProtocol.SSL, ca_file=ca_file)):
            pass


@pytest.mark.parametrize(
    ("listener", "credentials", "says"),
    [
        (
            "SASL",
            Credentials(protocol=SecurityProtocol.SASL_PLAINTEXT, username=secure_kafka.USER, password="wrong"),
            "Invalid username or password",
        ),
        (
            "TLS",
            Credentials(protocol=SecurityProtocol.SASL_SSL, username=secure_kafka.USER, password=secure_kafka.PASSWORD),
            "certificate verify failed",
        ),
        ("SASL", Credentials(), "FAMULUS_KAFKA_SECURITY_PROTOCOL"),
    ],
)
async def test_whoever_is_not_let_in_is_told_why(
    secure: KafkaBroker, listener: str, credentials: Credentials, says: str
) -> None:
    with pytest.raises(LogUnavailable, match=says):
        async with connect(f"kafka://127.0.0.1:{secure.ports[listener]}", credentials):
            pass


def test_a_missing_right_ends_the_worker_with_one_line_that_names_it(tmp_path: Path, secure: KafkaBroker) -> None:
    url = f"kafka://127.0.0.1:{secure.ports['SASL']}"
    asyncio.run(seed(secure.url, 30))
    asyncio.run(forbid(secure))
    lacking = {
        "reads": ("sessions", "exactly_once", "user-events"),
        "writes": ("fraud", "exactly_once", "fraud-alerts"),
        "writes-once": ("fraud", "at_least_once", "fraud-alerts"),
        "joins": ("fraud", "at_least_once", "joins"),
        "owns": ("fraud", "exactly_once", "owns-fraud-0"),
    }
    with ExitStack() as running:
        workers = {
            app_id: running.enter_context(Worker(tmp_path / app_id, broker=url, **login(app_id, job, guarantee)))
            for app_id, (job, guarantee, _) in lacking.items()
        }
        for group in ("hidden", "joins"):
            told = command(Worker(tmp_path, broker=url, **login(group)), "doctor", "--json", code=1)
            (wrong,) = [check for check in json.loads(told)["checks"] if check["verdict"] == "fail"]
            assert wrong["name"] == f"group {group}"
            assert group in wrong["finding"]
        for app_id, (_, _, names) in lacking.items():
            text = ended(workers[app_id], within=60)  # five of them start at once
            (fatal,) = [line for line in text.splitlines() if "FATAL" in line]
            assert "the broker does not allow it" in fatal
            assert names in fatal
            assert "Traceback" not in text
            assert "Crashed reason" not in text
            assert "in the clear" not in text


def login(app_id: str, job: str = "fraud", guarantee: str = "exactly_once") -> dict[str, Any]:
    """Settings of an application of the lesser user."""
    return {
        "FAMULUS_APP_ID": app_id,
        "FAMULUS_JOBS": job,
        "FAMULUS_PROCESSING_GUARANTEE": guarantee,
        "FAMULUS_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "FAMULUS_KAFKA_SASL_USERNAME": secure_kafka.LESSER_USER,
        "FAMULUS_KAFKA_SASL_PASSWORD": secure_kafka.LESSER_PASSWORD,
    }


async def forbid(broker: KafkaBroker) -> None:
    """What the workers of the test above lack."""
    async with connect(broker.url) as client:
        await client.create_topic("user-events", CATALOGUE["user-events"].partitions)
    for right, on, name in (
        (Right.READ, On.TOPIC, "user-events"),
        (Right.WRITE, On.TOPIC, "fraud-alerts"),
        (Right.READ, On.GROUP, "joins"),
        (Right.WRITE, On.TRANSACTIONAL_ID, "owns-fraud-0"),
        (Right.DESCRIBE, On.GROUP, "hidden"),
    ):
        await refuse(broker, right, on, name)
