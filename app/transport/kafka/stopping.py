"""Ends aiokafka's consumers, also while the broker is away or requests have just been cancelled."""

from __future__ import annotations

import asyncio

import aiokafka

#: How long to wait until what should have ended is told again.
_AGAIN_SECONDS = 0.1


async def stop(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Stop a consumer that was started, or whose start failed."""
    stopping = asyncio.ensure_future(consumer.stop())
    try:
        while not (await asyncio.wait([stopping], timeout=_AGAIN_SECONDS))[0]:
            if consumer._fetcher is not None:
                # Right after an ``assign`` aiokafka's fetching is busy cancelling requests, and takes its own cancellation for theirs.
                consumer._fetcher.error_future.cancel()
        if stopping.cancelled():
            # A fetch that waits after a failure passes its cancellation on, and aiokafka leaves the rest undone.
            await consumer._client.close()
        else:
            await stopping
    finally:
        stopping.cancel()
