"""The fold over the rules topic: versions, refusals, deletions, and the same answer for everybody."""

from __future__ import annotations

import json

import pytest

from agents.rules import book as book_module
from agents.rules.book import MAX_VERSIONS, RuleBook
from agents.rules.compiler import compiled
from models.errors import NotFound, RuleRefused
from models.rules import RuleVersion


def put(book: RuleBook, rule_id: str = "R", offset: int = 0, **changes: object) -> RuleVersion:
    content = {"rule_id": rule_id, "description": "d", "active": True, "risk_level": "HIGH", "when": "amount > 1.0"}
    return book.apply(
        rule_id.encode(), json.dumps(content | changes).encode(), offset=offset, timestamp_ms=1000 + offset
    )


def delete(book: RuleBook, rule_id: str = "R", value: bytes | None = None) -> RuleVersion:
    return book.apply(rule_id.encode(), value, offset=99, timestamp_ms=1099)


def versions(book: RuleBook, rule_id: str = "R") -> list[int]:
    return [step.version for step in book.history(rule_id)]


def test_a_rule_without_a_version_gets_the_one_after_the_previous() -> None:
    book = RuleBook()
    assert [put(book).version, put(book).version, put(book, version=7).version, put(book).version] == [1, 2, 7, 8]


def test_a_step_says_what_was_accepted_when_and_where() -> None:
    step = put(RuleBook(), offset=5)
    assert (step.rule_id, step.version, step.accepted_ms, step.offset) == ("R", 1, 1005, 5)
    assert step.rule is not None
    assert step.rule.version == 1


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_version_that_is_not_newer_is_refused(version: int) -> None:
    book = RuleBook()
    put(book, version=3)
    with pytest.raises(RuleRefused, match=f"version {version} is not newer than 3"):
        put(book, version=version, when="amount > 2.0")
    assert versions(book) == [3]


def test_the_highest_version_wins_whatever_the_order() -> None:
    kept: list[str] = []
    for order in ([1, 2, 3], [3, 1, 2], [2, 3, 1], [1, 3, 2]):
        book = RuleBook()
        for version in order:
            try:
                put(book, version=version, when=f"amount > {version}.0")
            except RuleRefused:
                continue
        kept.append(book.digest())
        assert book.current()["R"].version == 3
    assert len(set(kept)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"when": "amount >"},
        {"when": 5},
        {"unknown": 1},
        {"risk_level": "NONE"},
        {"when": "x" * 100_001},
        {"version": -1},
    ],
)
def test_a_refused_record_changes_nothing(changes: dict[str, object]) -> None:
    book = RuleBook()
    put(book)
    before = (book.digest(), book.ruleset(), versions(book))
    with pytest.raises(RuleRefused):
        put(book, "R", 0, **changes)
    assert (book.digest(), book.ruleset(), versions(book)) == before


def test_a_key_that_is_no_rule_id_is_refused() -> None:
    book = RuleBook()
    for key in (None, b"", b"\xff"):
        with pytest.raises(RuleRefused):
            book.apply(key, None, offset=0, timestamp_ms=0)
    assert book.current() == {}


@pytest.mark.parametrize("value", [None, b"", b" ", b"null", b" null\n"])
def test_an_empty_value_deletes(value: bytes | None) -> None:
    book = RuleBook()
    put(book)
    step = delete(book, value=value)
    assert (step.version, step.rule) == (2, None)
    assert (book.current(), book.get("R"), len(book.ruleset())) == ({}, None, 0)
    assert versions(book) == [1, 2]


def test_versions_go_on_after_a_deletion() -> None:
    book = RuleBook()
    put(book, version=5)
    delete(book)
    with pytest.raises(RuleRefused, match="not newer than 6"):
        put(book, version=6)
    assert put(book).version == 7


def test_deleting_what_is_not_there_is_no_step() -> None:
    book = RuleBook()
    before = book.digest()
    assert (delete(book).version, delete(book).rule) == (0, None)
    assert book.digest() == before
    with pytest.raises(NotFound):
        book.history("R")
    put(book)
    assert delete(book) == delete(book)
    assert versions(book) == [1, 2]


def test_an_inactive_rule_is_there_but_does_not_judge() -> None:
    book = RuleBook()
    put(book, active=False)
    put(book, "S")
    assert (set(book.current()), set(book.active()), set(book.ruleset().rules())) == ({"R", "S"}, {"S"}, {"S"})


def test_an_inactive_rule_must_be_a_rule_all_the_same() -> None:
    with pytest.raises(RuleRefused):
        put(RuleBook(), active=False, when="amount >")


def test_the_running_set_is_built_once_for_all_changes_since_the_last() -> None:
    book = RuleBook()
    for number in range(50):
        put(book, f"r{number}", when=f"amount > {number}.0")
    compiled.cache_clear()
    rules = book.ruleset()
    assert len(rules) == 50
    assert compiled.cache_info().misses == 1
    assert book.ruleset() is rules


def test_the_digest_is_that_of_what_decides_and_of_nothing_else() -> None:
    one, other = RuleBook(), RuleBook()
    put(one, "A")
    put(one, "B", version=4)
    put(other, "B", offset=7)
    put(other, "B", offset=8, version=4)
    put(other, "A", offset=9)
    assert one.digest() == other.digest()
    put(other, "A", description="another")
    assert one.digest() != other.digest()


def test_a_deletion_is_part_of_the_digest() -> None:
    one, other = RuleBook(), RuleBook()
    put(one)
    delete(one)
    assert one.digest() != other.digest()


def test_a_flapping_rule_forgets_its_own_oldest_versions_only() -> None:
    book = RuleBook()
    put(book, "quiet")
    put(book, "quiet")
    for _ in range(3 * MAX_VERSIONS):
        put(book, "flapping")
    assert versions(book, "quiet") == [1, 2]
    assert versions(book, "flapping") == list(range(2 * MAX_VERSIONS + 1, 3 * MAX_VERSIONS + 1))


def test_remembered_versions_are_bounded_over_all_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_PAST_VERSIONS", 3)
    book = RuleBook()
    for name in "abc":
        put(book, name)
        put(book, name)
        put(book, name)
    assert [versions(book, name) for name in "abc"] == [[3], [2, 3], [1, 2, 3]]
    assert len(book.current()) == 3


def test_the_number_of_rules_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_RULES", 2)
    book = RuleBook()
    put(book, "a")
    put(book, "b")
    with pytest.raises(RuleRefused, match="already 2 rules"):
        put(book, "c")
    assert put(book, "a").version == 2
    delete(book, "b")
    assert put(book, "c").version == 1


def test_the_size_of_all_conditions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_CONDITION_BYTES", 25)
    book = RuleBook()
    put(book, "a", when="amount > 1.0")
    put(book, "b", when="amount > 2.0")
    with pytest.raises(RuleRefused, match="would take 26 bytes"):
        put(book, "a", when="amount > 1.000")
    delete(book, "b")
    assert put(book, "a", when="amount > 1.00").version == 2


def test_a_forgotten_deleted_rule_does_not_come_back_with_an_old_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_DELETED", 1)
    book = RuleBook()
    put(book, "a", version=41)
    delete(book, "a")
    put(book, "b")
    delete(book, "b")
    with pytest.raises(NotFound):
        book.history("a")
    with pytest.raises(RuleRefused, match="not newer than 42"):
        put(book, "a", version=42)
    assert put(book, "a").version == 43
    assert put(book, "never seen").version == 43


def test_ten_thousand_rules_and_one_that_flaps_give_the_same_digest_to_two_readers() -> None:
    one, other = RuleBook(), RuleBook()
    for number in range(10_000):
        put(one, f"r{number}", when=f"amount > {number % 100}.0")
    for number in reversed(range(10_000)):
        put(other, f"r{number}", when=f"amount > {number % 100}.0")
    compiled.cache_clear()
    for flap in range(100):
        for book in (one, other):
            put(book, "r5", active=bool(flap % 2), when="amount > 5.5")
        assert one.ruleset().rules().keys() - {"r5"} == {f"r{number}" for number in range(10_000)} - {"r5"}
    assert one.digest() == other.digest()
    assert one.ruleset().rules()["r5"].rule.version == 101
