"""Long documents of paragraphs with questions, and SQuAD's two scores (Rajpurkar et al. 2016, arXiv 1606.05250)."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval.questions import Question

HALVES = ("first", "second")
_MOST_OVER_ONE = 20  # questions per document, which is read once for all of them,
_TOKENS_FOR_ONE = 500  # or one for so many of its tokens: the longest take minutes to read


def documents(
    asked: Sequence[Question], tokens: int, n: int, seed: int, count: Callable[[str], int], half: str = ""
) -> list[tuple[str, list[Question]]]:
    """`n` questions over as few documents as possible, each of paragraphs with about `tokens` tokens in total.

    Paragraphs are in the file's order, from an offset drawn by the seed.

    Args:
        asked: questions with their paragraphs as notes.
        count: counts the tokens of a text.
        half: ask only about every other article, from the "first" or the "second" on. All are in the documents.

    Raises:
        UsageError: no paragraph is that short, or that half has no question.
    """
    rng = random.Random(f"documents {seed} {tokens}")
    paragraphs = list(dict.fromkeys(q.notes for q in asked if q.notes))
    sizes = [count(p) + 2 for p in paragraphs]
    if not sizes or min(sizes) > tokens:
        raise UsageError(f"no paragraph fits into {tokens} tokens.", "Raise --lengths.")
    asked = [q for q in asked if not half or q.article % 2 == HALVES.index(half)]
    if not asked:
        raise UsageError(f"the {half} half of the articles has no question.", "Leave out --half.")
    found: list[tuple[str, list[Question]]] = []
    left = n
    while left:
        start, size, some = rng.randrange(len(paragraphs)), 0, []
        for i in (*range(start, len(paragraphs)), *range(start)):
            if size + sizes[i] <= tokens:
                some.append(paragraphs[i])
                size += sizes[i]
            elif some:
                break
        mine = [q for q in asked if q.notes in some]
        chosen = rng.sample(mine, min(max(_MOST_OVER_ONE, tokens // _TOKENS_FOR_ONE), len(mine), left))
        if chosen:
            found.append(("\n\n".join(some), chosen))
        left -= len(chosen)
    return found


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(reply: str, answers: Sequence[str]) -> float:
    return float(any(normalized(reply) == normalized(answer) for answer in answers))


def f1(reply: str, answers: Sequence[str]) -> float:
    """Word-level F1, the best over the answers."""
    return max((_f1(normalized(reply).split(), normalized(answer).split()) for answer in answers), default=0.0)


def _f1(said: list[str], right: list[str]) -> float:
    same = sum((Counter(said) & Counter(right)).values())
    if not same:
        return float(said == right)
    precision, recall = same / len(said), same / len(right)
    return 2 * precision * recall / (precision + recall)


def holds(reply: str, answers: Sequence[str]) -> float:
    """Whether the reply contains an answer: most models answer in sentences."""
    words = f" {normalized(reply)} "
    return float(any(f" {normalized(answer)} " in words for answer in answers))
