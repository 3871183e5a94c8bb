"""The rules service: what it writes is what the workers' fold takes, and of two changes from one version one is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from app.rulebook import RuleService
from app.transport.brokers import connect
from app.transport.client import BrokerClient, NewRecord
from models.errors import NotFound, RuleRefused, VersionConflict
from models.rules import RiskLevel, Rule

RULE = Rule("HIGH", "High amount", True, RiskLevel.HIGH, "amount > 10000.0")


def saying(when: str, *, rule_id: str = "HIGH", version: int | None = None) -> Rule:
    return msgspec.structs.replace(RULE, rule_id=rule_id, when=when, version=version)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[BrokerClient]:
    async with connect(f"embedded://{tmp_path}/log?synchronous=off") as client:
        yield client


@pytest.fixture
async def rules(client: BrokerClient) -> AsyncIterator[RuleService]:
    async with RuleService(client) as service:
        yield service


async def test_before_the_first_rule_there_is_none(rules: RuleService) -> None:
    assert list(await rules.list()) == []
    with pytest.raises(NotFound):
        await rules.get("HIGH")
    with pytest.raises(NotFound):
        await rules.history("HIGH")


async def test_a_rule_that_was_put_is_current_as_version_one(rules: RuleService) -> None:
    step = await rules.put(RULE)
    assert (step.rule_id, step.version) == ("HIGH", 1)
    assert await rules.get("HIGH") == step
    assert list(await rules.list()) == [step]


async def test_each_change_is_the_next_version_and_the_history_keeps_all(rules: RuleService) -> None:
    for when in ("amount > 1.0", "amount > 2.0", "amount > 3.0"):
        await rules.put(saying(when))
    history = await rules.history("HIGH")
    assert [(step.version, step.rule and step.rule.when) for step in history] == [
        (1, "amount > 1.0"),
        (2, "amount > 2.0"),
        (3, "amount > 3.0"),
    ]


async def test_rules_are_listed_in_the_order_of_their_ids(rules: RuleService) -> None:
    for rule_id in ("B", "C", "A"):
        await rules.put(saying("true", rule_id=rule_id))
    assert [step.rule_id for step in await rules.list()] == ["A", "B", "C"]


@pytest.mark.parametrize("when", ["amount > ", "amount > 'x'", "nothing > 1.0", ""])
async def test_a_rule_that_is_not_admitted_never_reaches_the_topic(
    rules: RuleService, client: BrokerClient, when: str
) -> None:
    with pytest.raises(RuleRefused):
        await rules.put(saying(when))
    assert await client.topics() == {}


async def test_a_version_that_was_taken_is_refused(rules: RuleService) -> None:
    await rules.put(saying("amount > 1.0", version=5))
    with pytest.raises(RuleRefused, match="version 5"):
        await rules.put(saying("amount > 2.0", version=5))
    assert (await rules.put(saying("amount > 2.0"))).version == 6


async def test_a_change_from_another_version_than_the_current_one_changes_nothing(rules: RuleService) -> None:
    await rules.put(RULE, expected_version=0)
    for attempt in (
        rules.put(RULE, expected_version=0),
        rules.put(RULE, expected_version=2),
        rules.delete("HIGH", expected_version=2),
        rules.disable("HIGH", expected_version=2),
        rules.rollback("HIGH", 1, expected_version=2),
    ):
        with pytest.raises(VersionConflict) as caught:
            await attempt
        assert caught.value.current == 1
    assert (await rules.get("HIGH")).version == 1


class _Rival:
    """A client behind whose back somebody else appends first, once."""

    def __init__(self, client: BrokerClient, record: NewRecord) -> None:
        self._client, self._record = client, [record]

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        if self._record:
            await self._client.append(topic, [self._record.pop()])
        return await self._client.append(topic, records)


def rival_version(version: int) -> NewRecord:
    return NewRecord(b"HIGH", msgspec.json.encode(saying("amount > 77.0", version=version)))


async def test_of_two_changes_from_one_version_the_second_is_told_and_changes_nothing(
    rules: RuleService, client: BrokerClient
) -> None:
    await rules.put(RULE)
    async with RuleService(_Rival(client, rival_version(2))) as late:  # type: ignore[arg-type]
        with pytest.raises(VersionConflict) as caught:
            await late.put(saying("amount > 5.0"), expected_version=1)
    assert caught.value.current == 2
    current = await rules.get("HIGH")
    assert current.rule is not None
    assert current.rule.when == "amount > 77.0"


async def test_of_two_first_versions_the_second_is_told(rules: RuleService, client: BrokerClient) -> None:
    await rules.put(saying("true", rule_id="OTHER"))
    async with RuleService(_Rival(client, rival_version(1))) as late:  # type: ignore[arg-type]
        with pytest.raises(VersionConflict):
            await late.put(saying("amount > 5.0"), expected_version=0)


async def test_a_change_by_another_service_is_seen_at_once(rules: RuleService, client: BrokerClient) -> None:
    await rules.put(RULE)
    async with RuleService(client) as other:
        await other.disable("HIGH")
        assert (await rules.get("HIGH")).version == 2


async def test_disabling_is_a_version_that_is_not_active_and_happens_once(rules: RuleService) -> None:
    await rules.put(RULE)
    step = await rules.disable("HIGH")
    assert step.version == 2
    assert step.rule is not None
    assert not step.rule.active
    assert await rules.disable("HIGH") == step


async def test_a_deleted_rule_is_gone_and_its_history_stays(rules: RuleService) -> None:
    await rules.put(RULE)
    step = await rules.delete("HIGH")
    assert (step.version, step.rule) == (2, None)
    assert list(await rules.list()) == []
    assert [s.version for s in await rules.history("HIGH")] == [1, 2]
    with pytest.raises(NotFound):
        await rules.delete("HIGH")


async def test_a_rollback_is_a_new_version_that_says_what_the_old_one_said(rules: RuleService) -> None:
    await rules.put(saying("amount > 1.0"))
    await rules.put(saying("amount > 2.0"))
    step = await rules.rollback("HIGH", 1)
    assert (step.version, step.rule and step.rule.when) == (3, "amount > 1.0")


async def test_a_rollback_brings_a_deleted_rule_back(rules: RuleService) -> None:
    await rules.put(RULE)
    await rules.delete("HIGH")
    step = await rules.rollback("HIGH", 1)
    assert (step.version, step.rule and step.rule.when) == (3, RULE.when)


async def test_a_rollback_to_what_says_nothing_is_refused(rules: RuleService) -> None:
    await rules.put(RULE)
    await rules.delete("HIGH")
    with pytest.raises(NotFound, match="no version 9"):
        await rules.rollback("HIGH", 9)
    with pytest.raises(NotFound, match="deleted"):
        await rules.rollback("HIGH", 2)


async def test_refused_records_on_the_topic_are_stepped_over(rules: RuleService, client: BrokerClient) -> None:
    await rules.put(RULE)
    bad = [NewRecord(b"HIGH", b"not json"), NewRecord(None, b"{}"), NewRecord(b"X", b'{"rule_id":"X"}')]
    await client.append("fraud-rules", bad)
    assert [step.rule_id for step in await rules.list()] == ["HIGH"]
    assert (await rules.put(RULE)).version == 2
