"""Does `work: search` find the right paragraph of a long document? No model runs, only its tokenizer.

    python -m warpcortex_cli.eval.passages --data FILE [-m smollm2] [--lengths 2000,8000] [--n 300] [--half second]

FILE is in SQuAD's format. Its paragraphs stand behind one another; each question is searched for as a role does. A
paragraph's rank is that of its best sentence.
"""

from __future__ import annotations

import argparse
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from warpcortex_cli.engine.index import SentenceIndex
from warpcortex_cli.engine.text import Sentences, words_of
from warpcortex_cli.engine.workers.search import best_last
from warpcortex_cli.eval import squad
from warpcortex_cli.eval.questions import Question, questions
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model

BUDGETS = (32, 64, 96, 128, 256)  # tokens of a passage
_RANKED = 4096  # tokens of all sentences that are ranked: more than three paragraphs


class Found(NamedTuple):
    """One question: the rank of the right paragraph, from 1 on, or None; the budgets whose passage holds the answer."""

    rank: int | None
    holding: frozenset[int]


class Document:
    """Paragraphs as the River's index would hold them."""

    def __init__(self, prism: Prism, paragraphs: Sequence[str]) -> None:
        self._prism, self._paragraphs = prism, list(paragraphs)
        self._sentences = Sentences(prism)
        self._starts: list[int] = []
        for paragraph in self._paragraphs:
            self._starts.append(len(self._sentences.ids))
            self._sentences.extend(prism.encode(f"{paragraph}\n\n"))
        self._index = SentenceIndex(self._sentences)

    @property
    def tokens(self) -> int:
        return len(self._sentences.ids)

    def find(self, asked: Question) -> Found:
        words = words_of(self._prism, self._prism.encode(asked.text))

        def best(budget: int) -> list[range]:
            return best_last(self._index, words, range(self.tokens), budget)

        ranked = dict.fromkeys(bisect_right(self._starts, s.start) - 1 for s in reversed(best(_RANKED)))
        order = [self._paragraphs[i] for i in ranked]
        holding = frozenset(b for b in BUDGETS if squad.holds(self._text(best(b)), asked.answers))
        return Found(order.index(asked.notes) + 1 if asked.notes in order else None, holding)

    def _text(self, found: Sequence[range]) -> str:
        return "\n".join(line for tokens in found for line in self._sentences.lines(tokens))


def run(
    prism: Prism, asked: Sequence[Question], length: int, n: int, seed: int, half: str = ""
) -> tuple[int, list[Found]]:
    """The mean number of tokens of the documents, and what was found for each of `n` questions."""
    found: list[Found] = []
    sizes: list[int] = []
    for text, some in squad.documents(asked, length, n, seed, lambda t: len(prism.encode(t)), half):
        document = Document(prism, text.split("\n\n"))
        sizes.append(document.tokens)
        found += map(document.find, some)
    return round(sum(sizes) / len(sizes)), found


def line(length: int, tokens: int, found: Sequence[Found]) -> str:
    n = len(found)
    first, third = (sum(f.rank is not None and f.rank <= k for f in found) for k in (1, 3))
    low, high = interval(first, n)
    holding = "".join(f"{sum(b in f.holding for f in found) / n:8.1%}" for b in BUDGETS)
    return f"{length:>8,}{tokens:>8,}{n:>6}{first / n:9.1%} ({low:.0%} to {high:.0%}){third / n:8.1%}{holding}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-m", "--model", default="smollm2")
    parser.add_argument("--lengths", default="2000,8000,30000")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2042)
    parser.add_argument("--half", choices=squad.HALVES, default="")
    args = parser.parse_args()
    prism = Prism.load(resolve_model(args.model, "auto"))
    asked = questions(args.data)
    print("the right paragraph first, and among the first three; the passage of so many tokens holds the answer:")
    print(f"{'length':>8}{'tokens':>8}{'n':>6}{'first':>9}{'':13}{'three':>8}{''.join(f'{b:>8}' for b in BUDGETS)}")
    for length in map(int, args.lengths.split(",")):
        print(line(length, *run(prism, asked, length, args.n, args.seed, args.half)))


if __name__ == "__main__":
    main()
