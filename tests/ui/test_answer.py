from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.events import RiverText
from warpcortex_cli.ui.answer import Answer

R = "\x01"  # stands for a request in these tests


def collect(text: str, cut: int = 0) -> tuple[str, str]:
    answer, printed = Answer(), ""
    for index, part in enumerate(text.split(R)):
        if index:
            printed += answer.feed(RiverText(text="[MATH: 1]", request=True))
        for piece in [part[:cut], part[cut:]]:
            if piece:
                printed += answer.feed(RiverText(text=piece))
    return answer.text, printed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"I count {R} and say 3.", "I count and say 3."),
        (f"I count {R}.", "I count."),
        (f"I count {R}{R} {R} now", "I count now"),
        (f"{R} Three.", "Three."),
        (f"Three. {R}", "Three."),
        (f"One {R}\nTwo", "One\nTwo"),
        (f"One\n{R}\nTwo", "One\nTwo"),
        (f"One\n\n{R}\n\nTwo", "One\n\nTwo"),
        (f"One\n{R}\n  two", "One\n  two"),
        (f"One\n{R} two", "One\ntwo"),
        ("  code  stays\n    indented \n", "code  stays\n    indented"),
        ("a \nb", "a \nb"),
        (f"a{R}b", "ab"),
        (f"{R}", ""),
    ],
)
def test_no_gap_is_left(text: str, expected: str) -> None:
    for cut in range(len(text)):
        assert collect(text, cut) == (expected, expected)


@given(st.text(alphabet=st.sampled_from(["a", " ", "\n", ".", R]), max_size=30), st.integers(0, 6))
def test_pieces_join_to_the_answer(text: str, cut: int) -> None:
    answer, printed = collect(text, cut)
    assert printed == answer == answer.strip()
    if "  " not in text and " \n" not in text:
        assert "  " not in answer and " \n" not in answer


def test_raw_keeps_everything_and_text_is_harmless() -> None:
    answer = Answer()
    answer.feed(RiverText(text="a \x1b[3"))
    answer.feed(RiverText(text="1mb "))
    answer.feed(RiverText(text="[X: 1]", request=True))
    assert answer.raw == "a \x1b[31mb [X: 1]"
    assert answer.text == "a b"
