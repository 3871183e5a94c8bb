"""The Faust table that stands for one operator's state.

It gives the state its name and its changelog topic (``APP-UID-changelog``, compacted) within Faust, so that Faust's tools know it.
The rows themselves belong to the operator's partitions, and the lane restores them through a log reader, batch by batch; Faust's
own recovery, which applies single events through a queue, has no part in it (see StateTableManager).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import faust
from faust.stores import base
from faust.tables.manager import TableManager
from faust.types import TP

from models.errors import StateError

#: state name -> key -> value as a query shows it
Look = Callable[[str], dict[str, Any] | None]


class OperatorStore(base.Store[Any, Any]):
    """Read-only view on an operator's state: key to {state name: value}."""

    look: Look = staticmethod(lambda key: None)
    stored_keys: Callable[[], Iterator[str]] = staticmethod(lambda: iter(()))

    def __getitem__(self, key: Any) -> Any:
        found = self.look(key)
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        raise StateError("operator state is written by its operator only")

    def __delitem__(self, key: Any) -> None:
        raise StateError("operator state is written by its operator only")

    def __iter__(self) -> Iterator[Any]:
        return self.stored_keys()

    def __len__(self) -> int:
        return sum(1 for _ in self.stored_keys())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.look(key) is not None

    def clear(self) -> None:
        raise StateError("operator state is written by its operator only")

    _clear = clear

    def apply_changelog_batch(self, batch: Any, to_key: Any, to_value: Any) -> None:
        raise StateError("operator state is restored by its lane")

    def persisted_offset(self, tp: TP) -> int | None:
        return None

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        raise StateError("operator state is restored by its lane")

    def reset_state(self) -> None:
        """Nothing is kept here."""

    async def backup_partition(self, *args: Any, **kwargs: Any) -> None:
        raise StateError("take a savepoint instead")

    def restore_backup(self, *args: Any, **kwargs: Any) -> None:
        raise StateError("restore a savepoint instead")


class StateTable(faust.Table[Any, Any]):
    """One operator's state as a Faust table."""

    def __init__(self, app: faust.App, *, uid: str, partitions: int) -> None:
        super().__init__(app, name=uid, partitions=partitions, key_type=str, value_type=bytes, help="operator state")

    def _new_store_by_url(self, url: Any) -> OperatorStore:
        return OperatorStore(url, self.app, self, table_name=self.name, loop=self.loop)

    @property
    def operator_store(self) -> OperatorStore:
        store = self.data
        if not isinstance(store, OperatorStore):
            raise StateError(f"table {self.name!r} has lost its store")
        return store

    async def on_start(self) -> None:
        # As Faust's, but the changelog has been made with the other topics, before anything was started.
        await self.add_runtime_dependency(self.data)

    async def on_rebalance(self, *args: Any, **kwargs: Any) -> None:
        """Partitions of operators are opened and closed by their lanes."""


class StateTableManager(TableManager):
    """Faust's table manager, which leaves operator state to the lanes."""

    async def on_start(self) -> None:
        # Faust sleeps a second here, to let plain tables register; ours are all registered before the worker starts.
        await self.sleep(0)
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()

    def add(self, table: Any) -> Any:
        added = super().add(table)
        if isinstance(table, StateTable):
            # No subscription, no recovery, no assignment of the changelog through the consumer group.
            self._changelogs.pop(table.changelog_topic.get_topic_name(), None)
        return added

    async def _update_channels(self) -> None:
        # As Faust's, but an operator's table gets no channel for its changelog.
        self._tables_finalized.set()
        for table in self.values():
            if not isinstance(table, StateTable) and table not in self._channels:
                channel = table.changelog_topic.clone_using_queue(self.changelog_queue)
                self.app.topics.add(channel)
                self._channels[table] = channel
            await table.maybe_start()
        consumer = self.app.consumer
        consumer.pause_partitions({tp for tp in consumer.assignment() if tp.topic in self._changelogs})
        self._tables_registered.set()
