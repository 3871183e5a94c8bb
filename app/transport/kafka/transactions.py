"""Transactions whose writer takes the steps itself:

    AddPartitionsToTxn -> AddOffsetsToTxn -> Produce -> TxnOffsetCommit -> EndTxn

aiokafka leaves them to a routine of its own, which wakes up for every step and gives each a task.  Here the routine only produces.

Each step waits for the one before.  At the first produce of a partition, and before it takes offsets, the broker asks the transaction's
coordinator whether it knows them.  While AddOffsetsToTxn is under way, or another such question of the same transaction, that fails with a
retriable error (NOT_ENOUGH_REPLICAS, COORDINATOR_NOT_AVAILABLE), which costs a back-off.

What a step does about errors is aiokafka's: it is tried until the broker takes it, also over a change of coordinators.  What cannot be tried
again is raised, and leaves the transaction to be aborted by the next owner of the id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import aiokafka
from aiokafka.client import CoordinationType
from aiokafka.producer.sender import AddPartitionsToTxnHandler, Sender

ADD_PARTITIONS_BACKOFF_SECONDS = 0.004


class QuickAddPartitions(AddPartitionsToTxnHandler):  # type: ignore[misc]
    """Asks again soon: the broker needs 1 to 3 ms to end the transaction before this one, aiokafka waits 20."""

    def handle_response(self, response: Any) -> float | None:
        backoff = super().handle_response(response)
        return None if backoff is None else min(backoff, ADD_PARTITIONS_BACKOFF_SECONDS)


class QuickSender(Sender):  # type: ignore[misc]
    """aiokafka's sender without a mind of its own about transactions."""

    def _maybe_do_transactional_request(self) -> None:
        return None

    async def _do_add_partitions_to_txn(self, tps: Any) -> Any:
        node = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        return await QuickAddPartitions(self, tps).do(node)


class QuickProducer(aiokafka.AIOKafkaProducer):  # type: ignore[misc]
    """aiokafka's producer with a transactional id.  ``enlist`` comes after ``begin_transaction`` and before anything is produced."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sender.__class__ = QuickSender

    async def enlist(self, partitions: Iterable[Any], group: str | None) -> None:
        """Add partitions to the transaction, and the offsets of a ``group``.  ``send_batch`` then goes out at once."""
        manager, sender = self._txn_manager, self._sender
        for tp in partitions:
            manager.maybe_add_partition_to_txn(tp)
        while manager.partitions_to_add():
            await sender._do_add_partitions_to_txn(set(manager.partitions_to_add()))
        if group is not None and manager.is_in_transaction():
            while not await sender._do_add_offsets_to_txn(group):
                pass  # it has waited before it said no
        await self._still_good()

    async def send_offsets_to_transaction(self, offsets: Mapping[Any, int], group_id: str) -> None:
        """Needs ``enlist`` with the group.  Everything that was sent must be stored by now."""
        manager = self._txn_manager
        taken = manager.add_offsets_to_txn(
            {tp: aiokafka.structs.OffsetAndMetadata(offset, "") for tp, offset in offsets.items()}, group_id
        )
        while (waiting := manager.offsets_to_commit()) is not None:
            await self._sender._do_txn_offset_commit(*waiting)
        await taken

    async def commit_transaction(self) -> None:
        """Everything that was sent must be stored by now."""
        manager = self._txn_manager
        manager.committing_transaction()
        while (result := manager.needs_transaction_commit()) is not None:
            await self._sender._do_txn_commit(result)
        await manager.wait_for_transaction_end()

    async def _still_good(self) -> None:
        if not self._txn_manager.is_in_transaction():
            await self._txn_manager.wait_for_transaction_end()  # raises what is wrong with it
