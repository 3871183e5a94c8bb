"""The stores that the state contract runs over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables.rocksdb import RocksStore
from tables.store import StateStore
from tests.contract.state_kit import MemoryStores

STORES = ["memory", "rocksdb"]
StoreMaker = Callable[[str], Any]


class RocksStores:
    """Stores in one folder: a restart opens what the one before left.  A tiny cache, so that most reads go to the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def open(self) -> StateStore:
        return RocksStore(
            self.folder / str(self.count), cached_keys=2, write_buffer_bytes=1 << 20, block_cache_bytes=1 << 20
        )

    def another(self) -> RocksStores:
        """Stores of another partition."""
        self.count += 1
        other = RocksStores(self.folder)
        other.count = self.count
        return other


def make_stores(kind: str, folder: Path) -> Any:
    """Stores of a kind for one partition."""
    return RocksStores(folder / "rocksdb") if kind == "rocksdb" else MemoryStores()
