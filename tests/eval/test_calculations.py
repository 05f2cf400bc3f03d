"""Questions for calculations: the same from the same seed, and scored as a reader would."""

from __future__ import annotations

from datetime import date
from fractions import Fraction

import pytest

from warpcortex_cli.eval.calculations import KINDS, WAYS, Calculation, calculations, is_right, last_number


def test_the_same_seed_gives_the_same_questions() -> None:
    assert calculations(50, 3) == calculations(50, 3)
    assert calculations(50, 3) != calculations(50, 4)


def test_all_kinds_come_in_turn_and_each_keeps_three_phrasings_out_of_tuning() -> None:
    cases = calculations(len(KINDS) * 20, 5)
    assert [c.kind for c in cases[: len(KINDS)]] == list(KINDS)
    for kind in KINDS:
        assert sum(len(way.held_out) for way in WAYS if way.kind == kind) >= 3 or kind == "page"
    assert not any(c.held_out for c in calculations(100, 5, held_out=False))
    assert all(c.held_out for c in calculations(100, 5, held_out=True))


@pytest.mark.parametrize(
    ("value", "reply", "right"),
    [
        (Fraction(133), "47 + 86 = 133.", True),
        (Fraction(133), "It is 133, because 47 + 86 is that.", True),
        (Fraction(133), "47 + 86 = 132", False),
        (Fraction(133), "133? No, 143.", False),
        (Fraction(133), "I do not know.", False),
        (Fraction(-39), "The difference is -39.", True),
        (Fraction(1234567), "$1,234,567 in all", True),
        (Fraction(10, 3), "3.33", True),
        (Fraction(10, 3), "3.3333", True),
        (Fraction(10, 3), "3.4", False),
        (Fraction(47), "So 47.", True),
        (date(2025, 11, 26), "That is 26 November 2025.", True),
        (date(2025, 11, 26), "November 26th", False),
        (date(2025, 11, 26), "November 26", True),
        (date(2025, 11, 26), "26 December 2025", False),
    ],
)
def test_a_reply_is_right_by_its_last_new_number(value: Fraction | date, reply: str, right: bool) -> None:
    assert is_right(Calculation("plain", "What is 47 and 86?", value), reply) is right


@pytest.mark.parametrize(
    ("reply", "number"),
    [("a 3, b -4.5", Fraction(-9, 2)), ("45-12", Fraction(12)), ("1,000 and 2,5", Fraction(5)), ("none", None)],
)
def test_word_problems_are_scored_by_the_last_number(reply: str, number: Fraction | None) -> None:
    assert last_number(reply) == number
