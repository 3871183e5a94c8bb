"""The stores that the state contract runs over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.contract.state_kit import MemoryStores

STORES = ["memory"]
StoreMaker = Callable[[str], Any]


def make_stores(kind: str, folder: Any) -> Any:
    return MemoryStores()
