"""The consumer group: how long a member counts, and a coordinator that knows how long ago it was last confirmed."""

from __future__ import annotations

import logging
import platform
import re
from time import monotonic
from typing import Any

from aiokafka.consumer.group_coordinator import GroupCoordinator

from app.transport.kafka import internals
from app.transport.kafka.failures import FencedInstanceId

log = logging.getLogger(__name__)

#: A worker that the group has not heard of for so long is out of it, and its partitions go to others.
SESSION_SECONDS = 10.0
HEARTBEAT_SECONDS = 1.0
#: Time for all members to give their partitions back when somebody comes or goes.
REBALANCE_SECONDS = 20.0


def instance_id(web_port: int) -> str:
    """Name of this member that survives a restart: the group gives a worker that was killed its partitions back without a rebalance.

    Two workers of a machine have different ports; more on one port could not start at all.
    """
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', platform.node())[:200]}-{web_port}"


class LeasedCoordinator(GroupCoordinator):  # type: ignore[misc]
    """aiokafka's coordinator of a group member, which notes until when nobody else can own the member's partitions.

    The broker waits ``session`` seconds from the last heartbeat that it got, and it got it after we sent it.
    """

    #: on this machine's monotonic clock
    lease_end = 0.0
    #: when the group last answered, 0.0 before it ever did
    heard = 0.0

    def leave_for_good(self) -> None:
        """Have an orderly end tell the group, so that others take over at once; a killed worker is waited for, to come back."""
        self._group_instance_id = None

    async def _do_heartbeat(self) -> Any:
        sent = monotonic()
        confirmed = await super()._do_heartbeat()
        # During a rebalance the broker answers heartbeats, too, but our partitions may be given away.
        if confirmed and not self._rejoin_needed_fut.done():
            self.lease_end = sent + self._session_timeout_ms / 1000
            self.heard = sent
        elif not confirmed and self._group_instance_id is not None and sent < self.lease_end and self.generation < 0:
            log.error(
                "the group has a newer member %s than this worker. If this happens again and again, two workers have the same host name and "
                "FAMULUS_WEB_PORT: give each a port, or each container a host name, of its own",
                self._group_instance_id,
            )
        return confirmed

    async def _on_join_complete(self, *args: Any, **kwargs: Any) -> Any:
        # Only until the heartbeats go on.
        self.heard = monotonic()
        self.lease_end = self.heard + 2 * self._heartbeat_interval_ms / 1000
        try:
            return await super()._on_join_complete(*args, **kwargs)
        except AssertionError as error:  # Faust's: the assignment is for a worker at another address
            raise FencedInstanceId from error


def lease(coordinator: Any) -> LeasedCoordinator | None:
    """Have the coordinator note its lease; ``None`` where aiokafka's inside is not what we know."""
    if internals.UNSUPPORTED is None and type(coordinator) is GroupCoordinator:
        coordinator.__class__ = LeasedCoordinator
    return coordinator if isinstance(coordinator, LeasedCoordinator) else None
