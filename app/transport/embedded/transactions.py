"""``exactly_once`` for plain Faust on the embedded log."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING

from faust.transport.consumer import TransactionManager as FaustTransactionManager
from faust.types import TP, RecordMetadata
from faust.types.core import HeadersArg

from app.transport.embedded.producer import Producer
from models.errors import LogError

if TYPE_CHECKING:
    from app.transport.embedded.consumer import Consumer


class TransactionManager(FaustTransactionManager):
    """``exactly_once``: one SQLite transaction holds what events have caused and the offsets of those events."""

    producer: Producer
    consumer: Consumer

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP]) -> None:
        """There are no transactional ids to begin or end."""

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        return await self.producer.send(topic, key, value, partition, timestamp, headers)

    async def commit(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        try:
            await self.producer.commit(offsets, self.consumer._committed_offset)
        except LogError as exc:
            # Fenced, or tables in memory are ahead of the log: only a restart is right.
            await self.app.crash(exc)
            return False
        return True

    def key_partition(self, topic: str, key: bytes) -> TP:
        return self.producer.key_partition(topic, key)
