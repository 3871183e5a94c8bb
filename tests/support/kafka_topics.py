"""Topics of a test broker."""

from __future__ import annotations

import asyncio
import time

from aiokafka.admin import AIOKafkaAdminClient


def delete_all_topics(bootstrap: str) -> None:
    """Delete every topic but Kafka's own, and with them what consumer groups committed for them."""
    asyncio.run(_delete_all(bootstrap))


async def _delete_all(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        deadline = time.monotonic() + 30
        while topics := [name for name in await admin.list_topics() if not name.startswith("__")]:
            assert time.monotonic() < deadline, f"still there: {topics}"
            await admin.delete_topics(topics)
            await asyncio.sleep(0.05)
        # The broker forgets the offsets of a deleted topic a little later; a worker that starts meanwhile would go on from them.
        while groups := await _groups_with_offsets(admin):
            assert time.monotonic() < deadline, f"offsets are still there: {groups}"
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


#: applications that tests run again and again on one broker; asking for all groups there ever were would take seconds
REUSED = ("famulus", "campaign")


async def _groups_with_offsets(admin: AIOKafkaAdminClient) -> list[str]:
    groups = {name for name, *_ in await admin.list_consumer_groups()}
    return [name for name in REUSED if name in groups and await admin.list_consumer_group_offsets(name)]
