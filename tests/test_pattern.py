"""Patterns: mistakes with their place, and the rewriting that tells which text may still become a match."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.pattern import PatternError, parse

MATH = r"\[MATH: (?P<task>[^\[\]\n]{1,200})\]"


def could_become(pattern: str, text: str) -> bool:
    return re2.fullmatch(parse(pattern).prefixes, text) is not None


@pytest.mark.parametrize(
    ("pattern", "offset"),
    [
        ("ab[cd", 2),
        ("ab(cd", 2),
        ("a(b)c)d", 5),
        ("(a)(b", 3),
        (r"[(]a(b", 4),
        (r"\(a\)b)", 6),
        ("ab(?=c)", 2),
        (r"task\1", 4),
        ("a**", 1),
        ("x[z-a]", 2),
        ("a{1,5000}", 1),
        (r"a\C", 1),
        ("ab(?i)c", 2),
    ],
)
def test_a_mistake_has_its_place(pattern: str, offset: int) -> None:
    with pytest.raises(PatternError) as caught:
        parse(pattern)
    assert caught.value.offset == offset
    assert caught.value.message


@pytest.mark.parametrize("text", ["[", "[M", "[MATH:", "[MATH: ", "[MATH: 4", "[MATH: 47 + 8", "[MATH: 1]"])
def test_every_beginning_of_a_request_may_become_one(text: str) -> None:
    assert could_become(MATH, text)


@pytest.mark.parametrize(
    "text", ["", "]", "[N", "[MATH: \n", "[MATH: ]", "[MATH: [", "[MATH: 1]x", "[MATH: " + "1" * 201]
)
def test_what_is_no_beginning_is_not_held_back(text: str) -> None:
    assert not could_become(MATH, text)


CASES = [
    (r"a|bc|d(ef)?", ["a", "bc", "d", "def"]),
    (r"(?i)ask: \w+\.", ["ASK: it.", "ask: x."]),
    (r"x(?i:yes)z", ["xYESz", "xyesz"]),
    (r"\Qa.b(\E+c", ["a.b(c", "a.b((c"]),
    (r"[[:alpha:]\]]{2}\pL\x{41}\101\.", ["a]éAA."]),
    (r"[^]a]{1,3}?!", ["bcd!", "b!"]),
    (r"(?:ab){2,3}c", ["ababc", "abababc"]),
    (r"a{,2}b", ["a{,2}b"]),
    (r"(?m)^do (?P<task>.*)\n", ["do it now\n"]),
    (r"\bgo\b ?(?:now|soon)\.$", ["go now.", "go soon."]),
    (r"(?:a*b+)*c", ["c", "aabbabc"]),
]


@pytest.mark.parametrize(("pattern", "matches"), CASES)
def test_the_rewritten_pattern_keeps_the_language(pattern: str, matches: list[str]) -> None:
    parsed = parse(pattern)
    for text in matches:
        assert re2.fullmatch(pattern, text), "the case itself is wrong"
        assert re2.fullmatch(parsed.whole, text)
        assert all(could_become(pattern, text[:n]) for n in range(1, len(text) + 1))
        assert not could_become(pattern, "")


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from([p for p, _ in CASES] + [MATH]), st.text("abcdefgo[]MATH: \n1.?", max_size=12))
def test_a_match_is_reached_through_its_beginnings(pattern: str, text: str) -> None:
    if re2.fullmatch(pattern, text):
        assert all(could_become(pattern, text[:n]) for n in range(1, len(text) + 1))
    if text and not could_become(pattern, text):
        assert not re2.fullmatch(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "open_ended"),
    [
        (MATH, False),
        (r"ask (?P<task>.+)", True),
        (r"ask (?P<task>\w{3})", False),
        (r"ask (?P<task>\w{3,5})", True),
        (r"ask (?P<task>x+)$", True),
        (r"ask (?P<task>x)?", False),
        (r"a(?:b|c+)", True),
    ],
)
def test_open_ends_are_seen(pattern: str, open_ended: bool) -> None:
    assert parse(pattern).open_ended is open_ended


def test_what_it_says_of_groups_and_emptiness() -> None:
    assert parse(r"(?P<a>x)(?P<task>y)").groups == {"a", "task"}
    assert parse("x*").may_be_empty
    assert not parse("x+").may_be_empty
