"""Words of a token sequence: the same number for the same word wherever it stands and however the tokens arrive."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.engine.text import Words

texts = st.lists(
    st.sampled_from(["Mara", "keeps", "ropes", "Zorbulatix", "47", ",", ".", "\n", "mill"]), max_size=12
).map(" ".join)


def words_of(prism, ids: list[int]) -> Words:
    words = Words(prism)
    words.extend(ids)
    return words


def test_a_word_is_the_same_wherever_it_stands_and_in_any_case(prism) -> None:
    numbers = set(words_of(prism, prism.encode("Zorbulatix")).numbers)
    assert len(numbers) == 1 and len(prism.encode("Zorbulatix")) > 1
    for text in ("The ropes of Zorbulatix: 47.", "a\nZorbulatix keeps", "(zorbulatix)"):
        assert numbers <= set(words_of(prism, prism.encode(text)).numbers)
    assert not numbers & set(words_of(prism, prism.encode("Zorbu latix Zorbulatixes")).numbers)


def test_what_a_very_long_word_began_with_is_settled(prism) -> None:
    ids = prism.encode("zqxj" * 400)
    words = words_of(prism, ids[:100])
    before = list(words.numbers)
    words.extend(ids[100:])
    assert len(ids) > 400 and list(words.numbers[:75]) == before[:75]  # else each further token would cost more


@settings(max_examples=60, deadline=None)
@given(text=texts, cut=st.integers(0, 40), back=st.integers(0, 6))
def test_words_do_not_depend_on_how_tokens_arrive(prism, text: str, cut: int, back: int) -> None:
    ids = prism.encode(text)
    whole = words_of(prism, ids).numbers
    pieces = words_of(prism, ids[:cut])
    pieces.extend(ids[cut:])
    assert pieces.numbers == whole and len(whole) == len(ids)
    ends = [i for i in range(1, len(ids)) if whole[i] != whole[i - 1]]
    if ends:  # taken back to the border of a word, and written again
        border = ends[back % len(ends)]
        pieces.truncate(border)
        pieces.extend(ids[border:])
        assert pieces.numbers == whole


def test_words_and_what_they_are_worth_are_the_same_in_every_process() -> None:
    """Python salts `hash` of a text: a near tie was decided by the process that it was asked in."""
    words = ["ropes", "Zorbulatix", "mill", "lantern", "47", "Mara", "violet", "cellar", "brown", "Otto"]
    script = f"""
from types import SimpleNamespace
from array import array
from warpcortex_cli.engine.index import SentenceIndex
from warpcortex_cli.engine.text import _number
words = [_number(w) for w in {words!r}]
numbers = array("q", [w for i in range(40) for w in (words[i % 10], words[i * i % 7], words[i % 3])])
sentences = SimpleNamespace(
    starts=array("i", range(0, 120, 3)), words=SimpleNamespace(numbers=numbers), ids=numbers, own=bytearray(120)
)
index = SentenceIndex(sentences)
worth = index.worth(index.spans(range(120), 64), set(words), None, 0.3)
print(words, worth.tobytes().hex())
"""
    # With torch they would take seconds: nothing here needs it.
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "2", "random")
    ]
    said = [p.communicate(timeout=60) for p in running]
    assert all(p.returncode == 0 for p in running), said
    assert len({out for out, _ in said}) == 1
