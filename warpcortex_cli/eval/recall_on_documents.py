"""Recall over documents in SQuAD's format: as `recall`, for models that do not know pocket's world.

The fact is the sentence that holds the answer to a question; an answer is right if it holds that, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from warpcortex_cli.eval import squad
from warpcortex_cli.eval.questions import Question
from warpcortex_cli.eval.recall import METHODS, Answered, Reader, Result, result_of
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

_FEW_WORDS = "Answer with a few words from the text."


class DocumentReader(Reader):
    """A River that has read paragraphs."""

    def __init__(self, prism: Prism, profile: Profile, budget: int, text: str, seed: int) -> None:
        self.read(prism, profile, budget, text, seed)
        sentences = self.river.sentences
        ends = [*sentences.starts[1:], len(sentences.ids)]
        ranges = (range(start, end) for start, end in zip(sentences.starts, ends, strict=True))
        self._lines = [(tokens, line) for tokens in ranges for line in sentences.lines(tokens)]

    def at(self, asked: Sequence[Question], depth: int, n: int) -> list[tuple[range, Question]]:
        """The `n` questions whose facts end least beyond `depth` tokens before the end of the notes."""
        end = len(self.river.sentences.ids) - depth
        found = [(tokens, q) for q in asked if (tokens := self._fact(q)) is not None and tokens.stop <= end]
        return sorted(found, key=lambda f: (-f[0].stop, f[1].text))[:n]

    def _fact(self, asked: Question) -> range | None:
        notes = " ".join(asked.notes.split())
        held = (tokens for tokens, line in self._lines if asked.answers[0] in line and line in notes)
        return next(held, None)


def run(
    prism: Prism,
    profile: Profile,
    asked: Sequence[Question],
    budget: int,
    depths: Sequence[int],
    n: int,
    seed: int,
    methods: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:
    """Each method at each depth over the same `n` questions or as many as there are; see `recall.run`."""
    tokens = (max(depths) + 2) * budget
    ((text, _),) = squad.documents(asked, tokens, 1, seed, lambda t: len(prism.encode(t)))
    reader = DocumentReader(prism, profile, budget, text, seed)
    found: dict[tuple[str, int], list[Answered]] = defaultdict(list)
    about = [q for q in asked if q.notes in text]
    facts = [(depth, *fact) for depth in depths for fact in reader.at(about, depth * budget, n)]
    for done, (depth, fact, question) in enumerate(facts, 1):
        for method in methods:
            words = f"{question.text}\n{_FEW_WORDS}"
            found[method, depth].append(reader.answered(METHODS[method], fact, words, _right(question)))
        progress(done, len(facts))
    reader.river.past.close()
    for (method, depth), answered in found.items():
        yield result_of(method, depth * budget, answered)
        yield result_of(method, depth * budget, answered, "said")


def _right(question: Question) -> Callable[[str], bool]:
    return lambda reply: bool(squad.holds(reply, question.answers))
