"""Which partition a key belongs to: Kafka's default partitioner (murmur2), the same on every transport."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """Partition of a key in a topic of ``partitions`` partitions."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
