from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agents.operator.process import Context
from agents.operator.spec import Source
from tables.log import Record

class Reader:
    def __init__(
        self,
        source: Source,
        context: Context,
        refuse: Callable[[Record, Exception], None],
        ahead: tuple[Callable[[list[str]], None], ...],
        key_name: str | None,
        timestamp_name: str | None,
    ) -> None: ...
    def __call__(self, records: Sequence[Record]) -> Iterator[Any]: ...
