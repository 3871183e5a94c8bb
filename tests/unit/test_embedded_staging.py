"""Which records of a transaction are written with which offsets."""

from __future__ import annotations

from faust.types import TP

from app.transport.embedded.records import Record
from app.transport.embedded.sending import Sending, Staged, Staging

SOURCE, OTHER_SOURCE, TARGET, OTHER_TARGET = TP("in", 0), TP("in", 1), TP("out", 0), TP("out", 1)


def staged(name: bytes, source: TP | None, offset: int, target: TP = TARGET) -> Staged:
    return Staged(source, offset, Sending(target, Record(0, 0, None, name), lambda metadata, error: None))


def names(sending: list[Sending]) -> list[bytes | None]:
    return [item.record.value for item in sending]


def staging(*items: Staged) -> Staging:
    made = Staging()
    for item in items:
        made.add(item)
    return made


def test_what_events_below_the_offset_caused_is_written_with_it_and_the_rest_later() -> None:
    area = staging(staged(b"4", SOURCE, 4), staged(b"5", SOURCE, 5), staged(b"4 again", SOURCE, 4))
    assert names(area.take({SOURCE: 5}, {})) == [b"4", b"4 again"]
    assert len(area) == 1
    assert names(area.take({SOURCE: 6}, {})) == [b"5"]
    assert not area.holds(TARGET)


def test_sources_do_not_wait_for_each_other() -> None:
    area = staging(staged(b"a", SOURCE, 9), staged(b"b", OTHER_SOURCE, 1))
    assert names(area.take({OTHER_SOURCE: 2}, {})) == [b"b"]


def test_what_a_late_agent_of_a_committed_event_caused_goes_with_the_next_commit() -> None:
    area = staging(staged(b"late", SOURCE, 3))
    assert names(area.take({OTHER_SOURCE: 1}, {SOURCE: 4})) == [b"late"]


def test_a_record_without_an_event_overtakes_nothing_in_its_partition() -> None:
    area = staging(
        staged(b"first", SOURCE, 7),
        staged(b"timer", None, -1),
        staged(b"timer elsewhere", None, -1, OTHER_TARGET),
    )
    assert names(area.take({SOURCE: 7}, {})) == [b"timer elsewhere"]
    assert area.holds(TARGET)
    assert names(area.take({SOURCE: 8}, {})) == [b"first", b"timer"]
    assert len(area) == 0
