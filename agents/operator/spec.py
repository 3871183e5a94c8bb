"""What an operator is made of, as data: the topology is a list of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from operator import attrgetter
from typing import Any

from agents.operator.process import KeyedProcessFunction
from models.errors import BadRecord, StateError
from models.time import Millis

Decode = Callable[[bytes], Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A keyed input topic: how its records are read.

    ``decode`` turns a value into an event and raises ``ValueError``, ``RecursionError`` or ``BadRecord`` on a bad one.  ``key`` gives
    the event's key, which must be the record's key, too.  ``timestamp`` gives event time in ms.  ``out_of_orderness``: the watermark
    stays this far behind the newest event of the partition.

    Without ``decode`` the function gets the record itself, under the record's own key and time.
    """

    topic: str
    decode: Decode | None = None
    key: Callable[[Any], str] = attrgetter("key")
    timestamp: Callable[[Any], Millis] = attrgetter("timestamp")
    out_of_orderness: timedelta = timedelta(seconds=5)
    #: name of the key field, for messages
    key_name: str = "key"


@dataclass(frozen=True, kw_only=True)
class OperatorSpec:
    """One operator of the job graph.

    ``uid`` names its state for ever (changelog topic ``APP-UID-changelog``, queries, savepoints): never change it.  ``function`` makes a
    fresh instance per partition.  ``broadcast`` is the topic that every worker reads whole.  ``side_outputs`` maps tags to topics.
    """

    uid: str
    name: str
    job: str
    function: Callable[[], KeyedProcessFunction[Any, Any]]
    source: Source
    output: str | None = None
    broadcast: str | None = None
    side_outputs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.uid.replace("-", "").isalnum() or not self.uid.isascii():
            raise StateError(f"operator uid {self.uid!r}: use ASCII letters, digits and hyphens")


def keyed_source(topic: str, decode: Decode, key: str, timestamp: str = "timestamp", **options: Any) -> Source:
    """A source whose key and event time are fields of the event."""
    return Source(
        topic=topic, decode=decode, key=attrgetter(key), timestamp=attrgetter(timestamp), key_name=key, **options
    )


def bad_record(exc: BaseException) -> BadRecord:
    """The reason for a dead letter, from what the decoder raised."""
    if isinstance(exc, BadRecord):
        return exc
    if isinstance(exc, RecursionError):
        return BadRecord("the value is nested too deeply to be a record of this topic")
    return BadRecord(f"the value is not a record of this topic: {exc}")
