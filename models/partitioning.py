"""Which partition a key belongs to: Kafka's default partitioner (murmur2), the same on every transport."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2

#: Longer keys are not remembered, so that what is remembered is bounded in bytes, too.
SHORT_KEY = 256


def partition_of(key: bytes, partitions: int) -> int:
    """Partition of a key in a topic of ``partitions`` partitions."""
    return (_remembered(key) if len(key) <= SHORT_KEY else _hash(key)) % partitions


def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


_remembered = lru_cache(maxsize=65_536)(_hash)
