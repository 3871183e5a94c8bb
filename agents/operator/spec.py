"""What an operator is made of, as data: the topology is a list of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from operator import attrgetter
from typing import Any, get_type_hints

from agents.operator.async_function import AsyncFunction
from agents.operator.process import LATE, KeyedProcessFunction, OutputTag
from models.errors import BadRecord, StateError
from models.time import Millis, length
from tables.log import Record

Decode = Callable[[bytes], Any]

#: Where late records go unless the operator says otherwise.
LATE_TOPIC = "late-events"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A keyed input topic: how its records are read.

    ``decode`` turns a value into an event and raises ``BadRecord`` (or ``ValueError``, ``LookupError`` and the like) on a bad one.  ``key``
    gives the event's key, a text, which must be the record's key, too.  ``timestamp`` gives event time in whole ms.  A record for which one of
    them raises or gives something else is a dead letter.

    ``out_of_orderness``: the watermark stays this far behind the newest event of the partition; ``None``: it moves only when told to.
    ``allowed_lateness``: a record older than the watermark by more than this goes to ``late-events`` instead of the function; ``None``:
    the function gets late records as any other.  ``idle_after``: a partition in which nothing was waiting for so long is idle (see
    ``agents.operator.inputs``); ``None``: never.

    Without ``decode`` the function gets the record itself, under the record's own key and time.
    """

    topic: str
    decode: Decode | None = None
    key: Callable[[Any], str] = attrgetter("key")
    timestamp: Callable[[Any], Millis] = attrgetter("timestamp")
    out_of_orderness: timedelta | None = timedelta(seconds=5)
    allowed_lateness: timedelta | None = None
    idle_after: timedelta | None = timedelta(minutes=1)
    #: name of the key field, for messages
    key_name: str = "key"
    #: whether the events' type promises that the key is a text and the time a whole number, so that nobody need look
    typed: bool = False

    def __post_init__(self) -> None:
        for name in ("out_of_orderness", "allowed_lateness", "idle_after"):
            interval = getattr(self, name)
            if interval is not None:
                length(interval, name)

    def checked(self) -> Source:
        """The source as an operator reads it: a key that is no text and a time that is no whole number raise ``BadRecord``."""
        if self.typed or self.decode is None:
            return self
        key_of, timestamp_of, name = self.key, self.timestamp, self.key_name

        def key(event: Any) -> str:
            given = key_of(event)
            if not isinstance(given, str):
                raise BadRecord(f"its {name} is {given!r} ({type(given).__name__}): a key is a text; let key= make one")
            if not given.isascii():
                given.encode()  # a lone surrogate is a ValueError
            return given

        def timestamp(event: Any) -> Millis:
            given = timestamp_of(event)
            if type(given) is not int:
                raise BadRecord(
                    f"its time is {given!r} ({type(given).__name__}): event time is a whole number of milliseconds since 1970"
                )
            return given

        return replace(self, key=key, timestamp=timestamp)


@dataclass(frozen=True, kw_only=True)
class OperatorSpec:
    """One operator of the job graph.

    ``uid`` names its state for ever (changelog topic ``APP-UID-changelog``, queries, savepoints): never change it.  ``function`` makes a
    fresh instance per partition (of an ``AsyncFunction``: per worker).  ``output`` is the topic of what it yields, which without one goes
    nowhere.  ``source2`` is the second input of a ``KeyedCoProcessFunction``.
    ``broadcast`` is the topic that every worker reads whole, ``broadcast_decode`` what makes an element of a value (without it the function gets
    the bytes; a record without a value is ``None`` either way).  ``side_outputs`` maps tags, or their names, to topics; late records have one
    anyway.
    """

    uid: str
    name: str
    job: str
    function: Callable[[], KeyedProcessFunction[Any, Any] | AsyncFunction[Any, Any]]
    source: Source
    source2: Source | None = None
    output: str | None = None
    broadcast: str | None = None
    broadcast_decode: Decode | None = None
    side_outputs: Mapping[Any, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.uid.replace("-", "").isalnum() or not self.uid.isascii():
            raise StateError(f"operator uid {self.uid!r}: use ASCII letters, digits and hyphens")
        if not callable(self.function):
            raise StateError(
                f"operator {self.uid!r}: function={type(self.function).__name__} is an instance, and each partition needs one of its own: "
                "give the class, or a function that makes one, as lambda: TumblingWindow(...).aggregate(Sum())"
            )
        sides = {tag.name if isinstance(tag, OutputTag) else tag: topic for tag, topic in self.side_outputs.items()}
        object.__setattr__(self, "side_outputs", {LATE: LATE_TOPIC, **sides})

    @property
    def sources(self) -> tuple[Source, ...]:
        """The keyed inputs, in the order of ``process_element1`` and ``process_element2``."""
        return (self.source,) if self.source2 is None else (self.source, self.source2)


def check_uids(specs: Iterable[OperatorSpec]) -> None:
    """Refuse two operators of one uid: each would find the other's state.  Raises :class:`models.errors.StateError`."""
    known: dict[str, OperatorSpec] = {}
    for spec in specs:
        other = known.setdefault(spec.uid, spec)
        if other is not spec:
            raise StateError(
                f"the operators {other.name!r} and {spec.name!r} both have the uid {spec.uid!r}: it names one's state"
            )


def keyed_source(topic: str, decode: Decode, key: str, timestamp: str = "timestamp", **options: Any) -> Source:
    """A source whose key and event time (ms) are fields of the event; ``options`` are those of :class:`Source`."""
    return Source(
        topic=topic,
        decode=decode,
        key=attrgetter(key),
        timestamp=attrgetter(timestamp),
        key_name=key,
        typed=_typed(decode, key, timestamp),
        **options,
    )


def _typed(decode: Decode, key: str, timestamp: str) -> bool:
    """Whether the decoder is one of msgspec's for a class that declares these fields, or properties, as ``str`` and ``int``."""
    event = getattr(getattr(decode, "__self__", None), "type", None)
    return isinstance(event, type) and _declared(event, key) is str and _declared(event, timestamp) is int


def _declared(event: type, name: str) -> Any:
    own = getattr(event, name, None)
    try:
        return get_type_hints(own.fget).get("return") if isinstance(own, property) else get_type_hints(event).get(name)
    except (NameError, TypeError):  # a local class
        return None


def bad_record(exc: BaseException, record: Record) -> BadRecord:
    """The reason for a dead letter, from what the decoder raised."""
    if isinstance(exc, BadRecord):
        return exc
    if record.value is None:
        return BadRecord("the record has no value")
    if isinstance(exc, RecursionError):
        return BadRecord("the value is nested too deeply to be a record of this topic")
    if isinstance(exc, (LookupError, AttributeError)):  # their text is a field's name at most
        return BadRecord(f"the value is not a record of this topic: {type(exc).__name__}: {exc}")
    return BadRecord(f"the value is not a record of this topic: {exc}")


def refuse_key(source: Source, record: Record, key: str) -> BadRecord:
    """The reason for a record whose key is not its event's."""
    name = source.key_name
    if not record.key:
        return BadRecord("the record has no key" + (f"; it must be its {name}, {key!r}" if key else ""))
    return BadRecord(
        f"the record's key is {record.key.decode(errors='replace')!r}, but its {name} is {key!r}; they must be equal"
    )


def refuse_drift(timestamp: Millis, now_ms: Millis, max_drift_ms: Millis) -> BadRecord:
    """The reason for a record from the future."""
    return BadRecord(
        f"timestamp {timestamp} is {(timestamp - now_ms) / 1000:.0f} s ahead of the clock; "
        f"at most {max_drift_ms / 1000:.0f} s are allowed"
    )
