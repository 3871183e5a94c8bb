"""Parts of the Kafka transport that need no broker."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import aiokafka
import pytest
from aiokafka import errors as kafka
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator

from app.transport.brokers import connect
from app.transport.kafka import connection, internals, membership, quiet
from app.transport.kafka.consumer import ConsumerThread
from app.transport.kafka.failures import FencedInstanceId, in_our_words, translated
from app.transport.kafka.metadata import partition_counts
from models.errors import Fenced, LogError, LogUnavailable, LogUnreachable, RecordTooLarge, UnknownTopic


def test_the_inside_of_the_pinned_client_is_what_we_know() -> None:
    assert internals.UNSUPPORTED is None


def test_another_version_of_the_client_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka, "__version__", "0.99.0")
    assert internals._unsupported() == "aiokafka is 0.99.0, not 0.14.0"


def test_a_missing_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Fetcher, "_notify")
    assert internals._unsupported() == "aiokafka has no Fetcher._notify"


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka.ProducerFenced(), Fenced),
        (kafka.InvalidProducerEpoch(), Fenced),
        (kafka.MessageSizeTooLargeError(), RecordTooLarge),
        (kafka.UnknownTopicOrPartitionError(), UnknownTopic),
        (kafka.KafkaConnectionError(), LogUnreachable),
        (TimeoutError(), LogUnreachable),
        (kafka.KafkaError(repr(kafka.KafkaConnectionError("closed"))), LogUnreachable),
        (kafka.GroupCoordinatorNotAvailableError(), LogUnreachable),
        (kafka.KafkaError(repr(FencedInstanceId())), Fenced),
        (kafka.SaslAuthenticationFailed("no"), LogUnavailable),
        (kafka.TopicAuthorizationFailedError("alerts"), LogError),
    ],
)
def test_an_error_of_kafka_is_told_in_our_words_with_what_to_do(error: Exception, ours: type[LogError]) -> None:
    told = in_our_words(error, "writing fraud partition 2")
    assert type(told) is ours
    assert str(told).startswith("writing fraud partition 2: ")


def test_the_cause_stays_with_the_error() -> None:
    cause = kafka.CorruptRecordException("x")
    with pytest.raises(LogError) as caught, translated("reading"):
        raise cause
    assert caught.value.__cause__ is cause


def test_an_echo_is_held_back_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1_000.0
    monkeypatch.setattr(quiet, "monotonic", lambda: clock)
    echo = quiet.Echo()

    def passes(text: str, level: int = logging.ERROR) -> str | None:
        record = logging.LogRecord("aiokafka", level, __file__, 1, text, (), None)
        return record.getMessage() if echo.filter(record) else None

    assert passes("no connection") == "no connection"
    assert passes("no connection") is None
    assert passes("something else") == "something else"
    assert passes("no connection", logging.INFO) == "no connection"
    clock += quiet.ECHO_SECONDS
    assert passes("no connection") == "no connection (and 1 times more)"


def test_what_echoes_is_remembered_within_bounds() -> None:
    echo = quiet.Echo()
    for number in range(5_000):
        echo.filter(logging.LogRecord("aiokafka", logging.ERROR, __file__, 1, f"sentence {number}", (), None))
    assert len(echo._passed) <= 500


def test_a_member_keeps_its_name_over_restarts_and_no_two_share_it() -> None:
    assert membership.instance_id(6066) == membership.instance_id(6066)
    assert membership.instance_id(6066) != membership.instance_id(6067)


class Answers(membership.LeasedCoordinator):
    """A coordinator whose broker answers heartbeats as told."""

    def __init__(self) -> None:
        self._session_timeout_ms = 10_000
        self._heartbeat_interval_ms = 1_000
        self._group_instance_id: Any = "host-6066"
        self.generation = 1


async def test_a_lease_lasts_a_session_from_the_heartbeat_that_was_confirmed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    answer = True

    async def heartbeat(self: object) -> bool:
        return answer

    monkeypatch.setattr(GroupCoordinator, "_do_heartbeat", heartbeat)
    coordinator = Answers()
    coordinator._rejoin_needed_fut = asyncio.get_running_loop().create_future()
    before = monotonic()
    await coordinator._do_heartbeat()
    assert before + 10 <= coordinator.lease_end <= monotonic() + 10
    ended = coordinator.lease_end
    answer = False
    await coordinator._do_heartbeat()
    assert coordinator.lease_end == ended
    assert "FAMULUS_WEB_PORT" not in caplog.text
    coordinator.generation = -1  # the group does not know this member any more, within its session
    await coordinator._do_heartbeat()
    assert "FAMULUS_WEB_PORT" in caplog.text
    answer = True
    coordinator._rejoin_needed_fut.set_result(None)  # a rebalance: the answer says nothing about our partitions
    await coordinator._do_heartbeat()
    assert coordinator.lease_end == ended


async def test_a_member_that_has_just_joined_has_heard_of_its_group_but_has_no_lease_of_a_session_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def joined(self: object) -> None: ...

    monkeypatch.setattr(GroupCoordinator, "_on_join_complete", joined)
    coordinator = Answers()
    assert coordinator.heard == 0.0
    before = monotonic()
    await coordinator._on_join_complete()
    assert before <= coordinator.heard <= monotonic()
    assert coordinator.lease_end <= monotonic() + 2


class IdleConnections:
    """A client whose broker closes so many connections before it answers."""

    def __init__(self, closed: int) -> None:
        self.closed = closed

    def get_random_node(self) -> int:
        return 1

    async def send(self, node: int, request: object) -> SimpleNamespace:
        if self.closed:
            self.closed -= 1
            raise kafka.KafkaConnectionError("Connection at 127.0.0.1:9092 closed")
        return SimpleNamespace(topics=[(0, "t", False, [object(), object()])])


async def test_topics_are_asked_for_once_more_when_the_broker_closed_an_idle_connection() -> None:
    assert await partition_counts(IdleConnections(1)) == {"t": 2}
    with pytest.raises(kafka.KafkaConnectionError):
        await partition_counts(IdleConnections(2))


async def test_something_else_that_listens_at_the_address_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(connection, "SERVER_SECONDS", 0.1)
    quiet_ones: list[asyncio.StreamWriter] = []

    def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        quiet_ones.append(writer)

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        started = monotonic()
        with pytest.raises(LogUnavailable, match=r"no answer as from a broker.*FAMULUS_BROKER"):
            async with connect(f"kafka://127.0.0.1:{port},127.0.0.1:{port}"):
                pass
        assert monotonic() - started < 20  # instead of 40 for each
        for writer in quiet_ones:
            writer.close()


async def test_what_the_settings_ask_for_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    connection.Connection("kafka://127.0.0.1:9092")
    for text in ("Sending username and password in the clear", "something else"):
        logging.getLogger("aiokafka.conn").warning(text)
    assert [record.getMessage() for record in caplog.records] == ["something else"]


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (kafka.TopicAuthorizationFailedError("alerts"), True),
        (kafka.CorruptRecordException("a wrong checksum"), True),
        (kafka.GroupCoordinatorNotAvailableError(), False),
    ],
)
async def test_an_error_of_a_fetch_ends_the_worker_unless_it_passes_by_itself(
    error: kafka.KafkaError, fatal: bool
) -> None:
    async def fetch(*args: object) -> object:
        raise error

    told: list[BaseException] = []
    thread = SimpleNamespace(
        consumer=SimpleNamespace(flow_active=True),
        _fetching=SimpleNamespace(fetch=fetch),
        _fatal=lambda error, where: told.append(error),
    )
    fetched = await ConsumerThread._fetch_records(cast(Any, thread), SimpleNamespace(_closed=False), set())
    assert fetched == {}
    assert [type(one) for one in told] == ([LogError] if fatal else [])
