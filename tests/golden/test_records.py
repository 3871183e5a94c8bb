"""Every wire record, byte by byte: what a version writes, the next one reads and writes the same.

``records/TOPIC.jsonl`` has examples as they lie on the topic, one a line.  A change of a file is a change of the interface: it needs an
entry in the CHANGELOG.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.operator import LateRecord
from models.alerts import Alert
from models.events import UserEvent
from models.insights import UserInsight
from models.orders import EnrichedOrder, Order, Payment
from models.profiles import EnrichedUserEvent, UserProfile
from models.rules import Rule
from models.sessions import SessionEvent, SessionInsight, SessionSummary
from models.topics import CATALOGUE
from models.transactions import Transaction

RECORDS = Path(__file__).parent / "records"
TYPES: dict[str, Any] = {
    "user-transactions": Transaction,
    "fraud-rules": Rule,
    "fraud-alerts": Alert,
    "user-events": UserEvent,
    "session-events": SessionEvent,
    "session-insights": SessionInsight,
    "session-summaries": SessionSummary,
    "orders": Order,
    "payments": Payment,
    "enriched-orders": EnrichedOrder,
    "enriched-user-events": EnrichedUserEvent,
    "user-insights": UserInsight,
    "late-events": LateRecord,
    # not on a topic: what lies in the cache under user:USER_ID
    "profile-cache": UserProfile,
}
#: topics whose record may leave fields out, so that its bytes come back with their defaults
SHORT = RECORDS / "accepted"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


@pytest.mark.parametrize("topic", TYPES)
def test_a_record_is_written_as_it_was_read(topic: str) -> None:
    examples = lines(RECORDS / f"{topic}.jsonl")
    assert examples
    for example in examples:
        record = msgspec.json.decode(example, type=TYPES[topic])
        assert msgspec.json.encode(record) == example


@pytest.mark.parametrize("path", sorted(SHORT.glob("*.jsonl")), ids=lambda path: path.stem)
def test_what_producers_may_leave_out_or_add_is_accepted(path: Path) -> None:
    for example in lines(path):
        msgspec.json.decode(example, type=TYPES[path.stem])


def test_every_topic_that_is_written_has_examples() -> None:
    assert set(TYPES) - {"profile-cache"} == set(CATALOGUE) - {"health-status"}
    assert {path.stem for path in RECORDS.glob("*.jsonl")} == set(TYPES)
