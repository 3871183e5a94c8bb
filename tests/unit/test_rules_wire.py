"""The decoder of the parser's answers: the tree it gives, and what it makes of broken bytes."""

from __future__ import annotations

import pytest

from agents.rules import language, wire
from agents.rules.tree import Call, Literal, Name, Node, Select, walk
from agents.rules.wire import WireError


def serialized(text: str) -> bytes:
    data: bytes = language.environment().compile(text).serialize()
    return data


def test_a_tree_has_kinds_types_and_places() -> None:
    root = language.check("amount > -1.5 && has(attributes.x)")
    assert root == Call(
        14,
        "bool",
        "_&&_",
        (
            Call(7, "bool", "_>_", (Name(0, "double", "amount"), Literal(9, "double", "double", -1.5))),
            Select(20, "bool", Name(21, "map(string, string)", "attributes"), "x", True),
        ),
    )


@pytest.mark.parametrize(
    ("literal", "kind", "value"),
    [
        ("0", "int", 0),
        ("-9223372036854775808", "int", -(2**63)),
        ("9223372036854775807", "int", 2**63 - 1),
        ("18446744073709551615u", "uint", 2**64 - 1),
        ("1e308", "double", 1e308),
        ("''", "string", ""),
        ("'ü😀'", "string", "ü😀"),
        ("b'\\xff'", "bytes", b"\xff"),
        ("true", "bool", True),
        ("false", "bool", False),
        ("null", "null", None),
    ],
)
def test_a_literal_keeps_its_value(literal: str, kind: str, value: object) -> None:
    root = language.check(literal)
    assert isinstance(root, Literal)
    assert (root.kind, root.value) == (kind, value)


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("timestamp - timestamp", "duration"),
        ("[[1.0]]", "list(list(double))"),
        ("{'a': true}", "map(string, bool)"),
        ("type(1)", "type"),
        ("dyn(1)", "dyn"),
        ("[1, 'a']", "list(dyn)"),
    ],
)
def test_a_type_is_told_in_words(text: str, type_: str) -> None:
    assert language.check(text).type == type_


def test_a_tree_that_was_only_parsed_has_no_types() -> None:
    root = language.parse("foo > 5 || bar")
    assert {node.type for node in walk(root)} == {""}


def nodes(data: bytes) -> list[Node] | None:
    try:
        return list(walk(wire.decode(data).root))
    except WireError:
        return None


def test_broken_bytes_are_an_error_of_the_wire_and_no_other() -> None:
    whole = serialized("amount > 1.5 && country in ['ü', 'KP'] && count(duration('10m')) > 300")
    assert nodes(whole) is not None
    assert all(nodes(whole[:end]) is None for end in range(len(whole)))
    for at in range(len(whole)):
        nodes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])


def test_an_answer_that_cannot_be_read_refuses_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise WireError("unknown kind of expression 99")

    monkeypatch.setattr(wire, "decode", broken)
    with pytest.raises(language.NotCel, match="unknown kind of expression 99"):
        language.check("true")
