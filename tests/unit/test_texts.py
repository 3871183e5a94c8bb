"""Equal texts share one object, and what is remembered of them is bounded."""

from __future__ import annotations

import pytest

from models import texts


def test_equal_texts_become_one_object() -> None:
    first, second = (b"PAGE_VIEW".decode() for _ in range(2))
    assert first is not second
    assert texts.shared(first) is texts.shared(second)


def test_no_more_than_the_bound_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST", 10)
    for number in range(100):
        assert texts.shared(f"text {number}") == f"text {number}"
        assert len(texts._texts) <= 10
