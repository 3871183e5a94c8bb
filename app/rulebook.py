"""Rules as people and programs change them: read from their topic, checked, written back.

The topic is the truth.  :class:`RuleService` folds it with the same :class:`agents.rules.book.RuleBook` as the workers do,
so what it calls current is what runs.  A change names its version; the fold takes a version once, so of two changes made
from the same version one is told that it came too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

import msgspec

from agents.rules.admission import admit, parse_rule
from agents.rules.book import RuleBook
from app.transport.client import BrokerClient, NewRecord
from models.errors import LogError, NotFound, RuleRefused, UnknownTopic, VersionConflict
from models.rules import Rule, RuleVersion
from models.topics import CATALOGUE, TopicNames
from tables.log import LogReader, Slice, TopicPartition

_TP = TopicPartition(TopicNames.RULES, 0)
#: Seconds one poll of the topic may take; reading goes on until the end, however many polls that needs.
_POLL = 1.0
#: Polls in a row that may bring nothing before the log counts as stuck.
_EMPTY_POLLS = 10


class RuleService:
    """Reads and changes the rules.  Safe for use by many tasks; the client must be open while it is used.

    ``expected_version`` is the version that a change was made from: ``None`` for whichever there is, 0 for "there is no
    such rule".  If the rule has another one, :class:`models.errors.VersionConflict` is raised and nothing is changed.
    Unknown rules and versions raise :class:`models.errors.NotFound`, a broker that fails :class:`models.errors.LogError`.
    """

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self._book = RuleBook()
        self._next_offset = 0
        self._reader: LogReader | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> RuleService:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop reading.  The client stays open."""
        async with self._lock:
            if self._reader is not None:
                reader, self._reader = self._reader, None
                await reader.stop()

    async def list(self) -> Sequence[RuleVersion]:
        """The current version of every rule that is not deleted, in the order of their ids."""
        async with self._lock:
            await self._refresh()
            return sorted(self._book.current().values(), key=lambda step: step.rule_id)

    async def get(self, rule_id: str) -> RuleVersion:
        """The current version of a rule."""
        async with self._lock:
            await self._refresh()
            return self._current(rule_id)

    async def history(self, rule_id: str) -> Sequence[RuleVersion]:
        """Every version, oldest first; also of a deleted rule."""
        async with self._lock:
            await self._refresh()
            return self._book.history(rule_id)

    async def put(self, rule: Rule, expected_version: int | None = None) -> RuleVersion:
        """Append a version once it is admitted.

        Without ``rule.version`` it gets the rule's next one; a version that is taken already is refused.
        Raises :class:`models.errors.RuleRefused`.
        """
        admit(parse_rule(rule.rule_id.encode(), msgspec.json.encode(rule)))
        async with self._lock:
            await self._refresh()
            self._expect(rule.rule_id, expected_version)
            return await self._append(rule)

    async def put_all(self, rules: Sequence[Rule]) -> Sequence[RuleVersion]:
        """Append many rules in one go: all of them, or none where one is refused."""
        for rule in rules:
            admit(parse_rule(rule.rule_id.encode(), msgspec.json.encode(rule)))
        async with self._lock:
            await self._refresh()
            claimed: dict[str, int] = {}
            records = []
            for rule in rules:
                name = rule.rule_id
                named = self._with_version(rule, claimed.get(name, self._book.next_version(name) - 1) + 1)
                claimed[name] = named.version or 0
                records.append(NewRecord(key=name.encode(), value=msgspec.json.encode(named)))
            await self._create_topic()
            places = await self._client.append(_TP.topic, records)
            await self._refresh()
            steps = [self._step_at(rule.rule_id, place[1]) for rule, place in zip(rules, places, strict=True)]
            refused = [rule.rule_id for rule, step in zip(rules, steps, strict=True) if step is None]
            if refused:
                raise VersionConflict(
                    f"{', '.join(refused[:5])}{' and others' if len(refused) > 5 else ''} changed at the same time, or "
                    "are one rule too many; the rest is put. Look with famulus rules list and put these again.",
                    current=None,
                )
            return [step for step in steps if step is not None]

    async def delete(self, rule_id: str, expected_version: int | None = None) -> RuleVersion:
        """Delete the rule; its history stays.

        A deletion carries no version on the topic, so one that was put in the same instant is deleted with the others.
        """
        async with self._lock:
            await self._refresh()
            self._current(rule_id)
            self._expect(rule_id, expected_version)
            return await self._write(rule_id, None)

    async def disable(self, rule_id: str, expected_version: int | None = None) -> RuleVersion:
        """Append a version that does not run; one that is disabled already stays as it is."""
        async with self._lock:
            await self._refresh()
            step = self._current(rule_id)
            self._expect(rule_id, expected_version)
            if step.rule is None or not step.rule.active:
                return step
            return await self._append(msgspec.structs.replace(step.rule, active=False, version=None))

    async def rollback(self, rule_id: str, to: int, expected_version: int | None = None) -> RuleVersion:
        """Append a new version that says what version ``to`` said."""
        async with self._lock:
            await self._refresh()
            history = self._book.history(rule_id)
            self._expect(rule_id, expected_version)
            step = next((step for step in history if step.version == to), None)
            if step is None:
                versions = ", ".join(str(step.version) for step in history[-20:])
                raise NotFound(f"The rule {rule_id!r} has no version {to}; it has {versions}.")
            if step.rule is None:
                raise NotFound(
                    f"Version {to} deleted the rule {rule_id!r}; choose one that says something, or delete it."
                )
            return await self._append(msgspec.structs.replace(step.rule, version=None))

    # --- all below with the lock held ---------------------------------------------------------------------------------

    def _current(self, rule_id: str) -> RuleVersion:
        if (step := self._book.get(rule_id)) is None:
            raise NotFound(f"There is no rule {rule_id!r}; famulus rules list shows those there are.")
        return step

    def _expect(self, rule_id: str, expected_version: int | None) -> None:
        if expected_version is None:
            return
        step = self._book.get(rule_id)
        if (step.version if step else 0) != expected_version:
            now = f"is at version {step.version}" if step else "does not exist"
            raise VersionConflict(
                f"The rule {rule_id!r} {now}, not at version {expected_version}; read it again and decide anew.",
                current=step.version if step else None,
            )

    async def _append(self, rule: Rule) -> RuleVersion:
        named = self._with_version(rule, self._book.next_version(rule.rule_id))
        return await self._write(rule.rule_id, msgspec.json.encode(named))

    @staticmethod
    def _with_version(rule: Rule, version: int) -> Rule:
        # With its version in the record, the fold refuses all but the first of two changes made from one version.
        if rule.version is None:
            return msgspec.structs.replace(rule, version=version)
        if rule.version < version:
            raise RuleRefused(
                f"rule {rule.rule_id}: version {rule.version} is not newer than {version - 1}; leave the version out"
            )
        return rule

    async def _create_topic(self) -> None:
        if not self._next_offset:
            spec = CATALOGUE[TopicNames.RULES]
            await self._client.create_topic(spec.name, spec.partitions, spec.config)

    async def _write(self, rule_id: str, value: bytes | None) -> RuleVersion:
        before = self._book.next_version(rule_id)
        await self._create_topic()
        [(_, offset)] = await self._client.append(_TP.topic, [NewRecord(key=rule_id.encode(), value=value)])
        refusal = await self._refresh(watched=offset)
        if (step := self._step_at(rule_id, offset)) is not None:
            return step
        if refusal is not None and self._book.next_version(rule_id) == before:
            raise refusal
        now = self._book.get(rule_id)
        raise VersionConflict(
            f"The rule {rule_id!r} was changed by somebody else at the same time; read it again and decide anew.",
            current=now.version if now else None,
        )

    def _step_at(self, rule_id: str, offset: int) -> RuleVersion | None:
        try:
            steps = self._book.history(rule_id)
        except NotFound:
            return None
        return next((step for step in reversed(steps) if step.offset == offset), None)

    async def _refresh(self, watched: int = -1) -> RuleRefused | None:
        """Fold what was appended since the last time, up to the topic's end as it is now.

        Returns why the record at offset ``watched`` was refused, if it was.
        """
        reader = await self._started_reader()
        try:
            end = (await reader.end_offsets([_TP]))[_TP]
        except UnknownTopic:
            return None
        refusal: RuleRefused | None = None
        reader.assign({_TP: self._next_offset})
        empty = 0
        while self._next_offset < end:
            before = self._next_offset
            for part in await reader.poll(_POLL):
                if part.tp == _TP:
                    refusal = self._fold(part, watched) or refusal
            empty = 0 if self._next_offset > before else empty + 1
            if empty == _EMPTY_POLLS:
                raise LogError(
                    f"{_TP.topic} cannot be read beyond offset {self._next_offset} of {end}; check the broker "
                    "with famulus doctor"
                )
        return refusal

    def _fold(self, part: Slice, watched: int) -> RuleRefused | None:
        refusal = None
        for record in part.records:
            try:
                self._book.apply(record.key, record.value, offset=record.offset, timestamp_ms=record.timestamp)
            except RuleRefused as error:
                # It changed nothing; the worker's own fold sends it to the dead letters.
                if record.offset == watched:
                    refusal = error
        self._next_offset = part.next_offset
        return refusal

    async def _started_reader(self) -> LogReader:
        if self._reader is None:
            reader = self._client.reader()
            await reader.start()
            self._reader = reader
        return self._reader
