"""What most people write first, and what they are told."""

from __future__ import annotations

import pytest

from agents.rules.admission import condition_of
from models.errors import RuleRefused


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("amount = 1.0", "write == to compare"),
        ("amount > 1.0 and country == 'DE'", "write && for and, || for or"),
        ("amount > 1.0 OR country == 'DE'", "write && for and, || for or"),
        ("Amount > 1.0", "did you mean amount?"),
        ("mercant == 'm1'", "did you mean merchant?"),
        ("previous_amount > 1.0", "did you mean previous_amount()?"),
        ("sum_amounts(duration('5m')) > 1.0", "did you mean sum_amount(duration('10m'))?"),
    ],
)
def test_a_common_mistake_is_answered_with_what_was_meant(text: str, hint: str) -> None:
    with pytest.raises(RuleRefused) as refused:
        condition_of(text)
    assert hint in str(refused.value)


def test_a_name_that_is_like_none_gets_no_guess() -> None:
    with pytest.raises(RuleRefused) as refused:
        condition_of("xyz > 1.0")
    assert "did you mean" not in str(refused.value)
