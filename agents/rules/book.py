"""The rules as the rules topic tells them: a fold over its records that gives every worker the same answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from agents.rules.admission import AdmittedRule, admit, key_text, parse_rule
from agents.rules.compiler import RuleSet
from models.errors import NotFound, RuleRefused
from models.rules import RuleVersion
from models.time import Millis

#: Rules that are there at once.
MAX_RULES = 20_000
#: Bytes of all their conditions; a parsed condition takes some fifty times its text.
MAX_CONDITION_BYTES = 4 << 20
#: Deleted rules whose version counter is remembered one by one.
MAX_DELETED = 20_000
#: Versions that are remembered: of one rule, and of all rules beyond the present ones.
MAX_VERSIONS = 100
MAX_PAST_VERSIONS = 20_000


class RuleBook:
    """Rules and their versions.  What :meth:`apply` was given, in order, decides everything; a refused record decides nothing.

    A rule's versions only grow, also past a deletion, so a version of a rule never stands for two contents.  Memory is
    bounded by the ``MAX_...`` figures of this module; the oldest versions are forgotten first.
    """

    def __init__(self) -> None:
        self._admitted: dict[str, AdmittedRule] = {}
        #: all remembered versions of a rule, the latest last; never empty
        self._versions: dict[str, deque[RuleVersion]] = {}
        #: superseded versions in order of superseding
        self._past: dict[tuple[str, int], None] = {}
        #: deleted rules in order of deletion
        self._deleted: dict[str, None] = {}
        #: highest version of the deleted rules that were forgotten: where the versions of an unknown rule begin
        self._floor = 0
        self._condition_bytes = 0
        self._ruleset = RuleSet()
        self._changes: dict[str, AdmittedRule | None] = {}
        self._digest: str | None = None

    def apply(self, key: bytes | None, value: bytes | None, *, offset: int, timestamp_ms: Millis) -> RuleVersion:
        """Take one record; returns the step it was.  Raises :class:`RuleRefused`, and stays as it was.

        No value, or JSON ``null``, deletes.  Deleting what is not there is no step: the answer is the earlier deletion,
        or version 0 for a rule that never was.
        """
        if value is None or (len(value) <= 16 and value.strip() in {b"", b"null"}):
            return self._delete(key_text(key), offset, timestamp_ms)
        rule = parse_rule(key, value)
        name = rule.rule_id
        latest = self._latest(name)
        if rule.version is not None and rule.version <= latest:
            raise RuleRefused(
                f"rule {name}: version {rule.version} is not newer than {latest}; leave the version out, or give a higher one"
            )
        if name not in self._admitted and len(self._admitted) >= MAX_RULES:
            raise RuleRefused(f"rule {name}: there are already {MAX_RULES} rules; delete some first")
        size = self._condition_bytes + len(rule.when.encode()) - self._size_of(name)
        if size > MAX_CONDITION_BYTES:
            raise RuleRefused(
                f"rule {name}: with it all conditions would take {size} bytes, at most {MAX_CONDITION_BYTES} are taken; "
                "delete some rules first"
            )
        version = rule.version or latest + 1
        admitted = admit(msgspec.structs.replace(rule, version=version))
        self._condition_bytes = size
        self._admitted[name] = admitted
        self._deleted.pop(name, None)
        self._changes[name] = admitted
        return self._remember(RuleVersion(name, version, admitted.rule, timestamp_ms, offset))

    def _delete(self, name: str, offset: int, timestamp_ms: Millis) -> RuleVersion:
        if name not in self._admitted:
            known = self._versions.get(name)
            return known[-1] if known else RuleVersion(name, 0, None, timestamp_ms, offset)
        step = RuleVersion(name, self._latest(name) + 1, None, timestamp_ms, offset)
        self._condition_bytes -= self._size_of(name)
        del self._admitted[name]
        self._changes[name] = None
        self._deleted[name] = None
        self._remember(step)
        if len(self._deleted) > MAX_DELETED:
            forgotten = next(iter(self._deleted))
            del self._deleted[forgotten]
            versions = self._versions.pop(forgotten)
            self._floor = max(self._floor, versions[-1].version)
            for version in versions:
                self._past.pop((forgotten, version.version), None)
        return step

    def _size_of(self, name: str) -> int:
        admitted = self._admitted.get(name)
        return len(admitted.rule.when.encode()) if admitted else 0

    def _latest(self, name: str) -> int:
        versions = self._versions.get(name)
        return versions[-1].version if versions else self._floor

    def _remember(self, step: RuleVersion) -> RuleVersion:
        self._digest = None
        name = step.rule_id
        versions = self._versions.setdefault(name, deque())
        if versions:
            self._past[name, versions[-1].version] = None
        versions.append(step)
        if len(versions) > MAX_VERSIONS:
            del self._past[name, versions.popleft().version]
        elif len(self._past) > MAX_PAST_VERSIONS:
            oldest = next(iter(self._past))
            del self._past[oldest]
            self._versions[oldest[0]].popleft()
        return step

    def current(self) -> Mapping[str, RuleVersion]:
        """The rules that are there, active or not, by rule id."""
        return {name: self._versions[name][-1] for name in self._admitted}

    def get(self, rule_id: str) -> RuleVersion | None:
        """The rule's latest version; ``None`` if there is no such rule now."""
        return self._versions[rule_id][-1] if rule_id in self._admitted else None

    def next_version(self, rule_id: str) -> int:
        """The version that a change without one gets."""
        return self._latest(rule_id) + 1

    def active(self) -> Mapping[str, RuleVersion]:
        """The rules that judge, by rule id."""
        return {name: self._versions[name][-1] for name, admitted in self._admitted.items() if admitted.rule.active}

    def history(self, rule_id: str) -> tuple[RuleVersion, ...]:
        """Remembered versions, oldest first, a deletion being one; raises :class:`NotFound`."""
        versions = self._versions.get(rule_id)
        if versions is None:
            raise NotFound(f"there is no rule {rule_id}; `famulus rules list` shows those that are there")
        return tuple(versions)

    def ruleset(self) -> RuleSet:
        """The active rules, compiled.  Changes since the last call are compiled together, now."""
        if self._changes:
            self._ruleset = self._ruleset.with_changes(self._changes)
            self._changes = {}
        return self._ruleset

    def digest(self) -> str:
        """Hex of a hash of all that decides what comes next: equal books judge and refuse alike."""
        if self._digest is None:
            state = blake2b(digest_size=16)
            state.update(msgspec.msgpack.encode(self._floor))
            for name in sorted(self._versions):
                latest = self._versions[name][-1]
                state.update(msgspec.msgpack.encode((name, latest.version, latest.rule)))
            self._digest = state.hexdigest()
        return self._digest
