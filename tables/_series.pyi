from typing import Any, TypeVar

from tables.series import PlainSeries, Shape

T = TypeVar("T")

class Layout:
    def __init__(self, shape: Shape[Any]) -> None: ...

class Series(PlainSeries[T]):
    def __init__(self, layout: Layout) -> None: ...

class Adding:
    def __init__(
        self, state: Any, short: int, any_: object, ttl_ms: int, event_time: bool, per_access: int
    ) -> None: ...
    def add(self, item: Any) -> PlainSeries[Any]: ...
    def add_from(self, source: object) -> PlainSeries[Any]: ...
