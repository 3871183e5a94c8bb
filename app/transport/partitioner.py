"""Which partition a key belongs to: murmur2, as the Java client's default partitioner does it."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=100_000)
def _hash(key: bytes) -> int:
    # aiokafka's murmur2 is plain Python, 3 us for a short key: users come again, so remember.
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_for(key: bytes, partitions: int) -> int:
    """Partition of a key, 0 <= p < ``partitions``.  Only short keys are remembered, so memory is bounded."""
    hashed = _hash(key) if len(key) <= 256 else _hash.__wrapped__(key)
    return hashed % partitions
