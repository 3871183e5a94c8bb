"""Faust's transport on Kafka with batch lanes: ``broker="kafka://HOST:PORT,..."``.

Not registered with Faust, whose own driver has the scheme: a plain Faust application in the same environment keeps that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from faust.transport.drivers import aiokafka as base
from faust.types import AppT
from yarl import URL

from agents.transport import PartSink
from app.outages import outlast
from app.settings import ProcessingGuarantee
from app.transport.kafka import internals
from app.transport.kafka.connection import Connection
from app.transport.kafka.consumer import Consumer, explain_fallback
from app.transport.kafka.failures import connecting, translated
from app.transport.kafka.sink import KafkaPartSink

if TYPE_CHECKING:
    from app.application import FamulusApp


class Producer(base.Producer):
    """Faust's producer, for plain agents, connecting as everything of ours does."""

    transport: Transport

    async def on_start(self) -> None:
        await outlast("connecting to Kafka", self._connect, lambda: self.should_stop)

    async def _connect(self) -> None:
        try:
            with connecting(self.transport.connection.url):
                await super().on_start()
        except BaseException:
            producer, self._producer = self._producer, None
            if producer is not None:
                await producer.stop()
            raise

    def _settings_default(self) -> Mapping[str, Any]:
        settings = dict(super()._settings_default())
        for name in ("bootstrap_servers", "client_id", "security_protocol"):
            settings.pop(name, None)
        return settings

    def _settings_auth(self) -> Mapping[str, Any]:
        return self.transport.connection.arguments("producer")


class Transport(base.Transport):
    """Opens nothing before the app starts."""

    Consumer = Consumer
    Producer = Producer

    def __init__(self, url: list[URL], app: AppT, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(url, app, loop)
        settings = cast("FamulusApp", app).settings
        self.connection = Connection(settings.broker, settings.credentials)
        #: whether fetch results are taken whole
        self.whole_fetches = internals.UNSUPPORTED is None

    async def _create_topic(self, owner: Any, client: Any, topic: str, *arguments: Any, **options: Any) -> None:
        create = super()._create_topic

        async def attempt() -> None:
            with translated(f"creating topic {topic}"):
                await create(owner, client, topic, *arguments, **options)

        await outlast(f"creating topic {topic}", attempt, lambda: bool(owner.should_stop))

    def part_sink(self) -> PartSink:
        """Where the lanes of this worker commit."""
        explain_fallback()
        app = cast("FamulusApp", self.app)
        return KafkaPartSink(
            self.connection,
            app.conf.id,
            cast(Consumer, app.consumer),
            exactly_once=app.settings.processing_guarantee is ProcessingGuarantee.EXACTLY_ONCE,
        )
