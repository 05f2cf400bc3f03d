"""Recall of tokens that have left the River's tail, by depth and by selection method.

Long notes are loaded once into a session. Then the River alone is asked for facts at given depths before the notes'
end, and each turn is rewound. A method replaces only `Past.look_for`: all have the same budget, select at the same
moments, and use the same path from the selection to the answer.

Each fact is asked for in several wordings: as in the note, and with its name and thing misspelled, so that the question
shares no rare word with the note. `planted` is the ceiling: the fact is always recalled.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warpcortex_cli.engine.past import Past
from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval import pocket
from warpcortex_cli.eval.misspelled import WORDINGS
from warpcortex_cli.eval.report import Grid, share
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.events import RiverText
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Thing, Words
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile
from warpcortex_cli.synapse.worth import choose

KINDS = ("count", "place", "colour")
_TOKENS_A_NOTE = 14  # a lower bound of the mean
_ANSWER = 64  # tokens; right answers are shorter, others may not end
_K1, _B = 1.2, 0.75  # BM25's


@dataclass(frozen=True)
class Result:
    """One method at one depth.

    Attributes:
        wording: a name of `WORDINGS`; empty: all of them.
        depth: tokens between the fact and the end of the notes.
        recall: share of right answers.
        ci95: of `recall`, by Wilson.
        found: share of questions for which the fact was recalled, whatever the answer.
    """

    method: str
    depth: int
    recall: float
    ci95: tuple[float, float]
    n: int
    found: float
    wording: str = ""


class Wanted(NamedTuple):
    """The arguments of `Past.look_for`: word ids, queries per layer [heads, W, head_dim], and bounds."""

    words: list[int]
    queries: Sequence[Tensor] | None
    budget: int
    among: range
    least: float


def unrotated(prism: Prism, past: Past) -> Segment:
    """All stored tokens, unrotated, as if each were at position 0."""
    return past.gather(list(range(past.tokens)), torch.zeros(past.tokens, dtype=torch.long, device=prism.device))


class Memory:
    """A past for rival methods to select from, with what they need precomputed."""

    def __init__(self, prism: Prism, past: Past, seed: int) -> None:
        self.prism = prism
        self.past = past
        self.rng = np.random.default_rng(seed)
        self.planted = range(0)  # tokens of the wanted fact

    @cached_property
    def keys(self) -> list[Tensor]:
        """Unrotated keys of all stored tokens, per layer [kv_heads, N, head_dim] in fp32."""
        return [k.float().cpu() for k in unrotated(self.prism, self.past).keys]

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Blocks in random order."""
        return self.rng.permutation(len(self.past.fingerprints))

    @cached_property
    def lottery(self) -> NDArray[np.float32]:
        """A random score for each sentence."""
        return self.rng.random(len(self.past.sentences.starts), np.float32) + 1e-6

    @cached_property
    def retriever(self) -> Any:
        """bm25s's index of all sentences; words are written as their ids."""
        import bm25s

        sentences = self.past.sentences
        ends = [*sentences.starts[1:], len(sentences.ids)]
        spans = zip(sentences.starts, ends, strict=True)
        index = bm25s.BM25(method="lucene", k1=_K1, b=_B)
        documents = [[str(word) for word, _ in groupby(sentences.words.numbers[a:b])] for a, b in spans]
        index.index(documents, show_progress=False)
        return index

    def best(self, worth: NDArray[np.float32], wanted: Wanted) -> list[int]:
        """Tokens of the highest-scoring whole sentences, as the River selects them. `worth`: a score per sentence."""
        spans = self.past.index.spans(wanted.among, wanted.budget)
        numbers = np.array(self.past.sentences.numbers)
        return choose(spans, worth[numbers[spans.starts]], wanted.budget)


Method = Callable[[Memory, Wanted], list[int]]


def ours(memory: Memory, wanted: Wanted) -> list[int]:
    """The River's own method: shared rare words, and fingerprints."""
    return Past.look_for(memory.past, *wanted)


def fingerprints(memory: Memory, wanted: Wanted) -> list[int]:
    """Ours with fingerprints only."""
    return Past.look_for(memory.past, *wanted._replace(words=[]))


def shuffled(memory: Memory, wanted: Wanted) -> list[int]:
    """Ours with fingerprints only, shuffled between blocks: chance level."""
    held = memory.past.fingerprints
    rows = held.rows()
    others = rows[memory.order]
    held.truncate(0)
    held.extend(others)
    try:
        return fingerprints(memory, wanted)
    finally:
        held.truncate(0)
        held.extend(rows)


def recency(memory: Memory, wanted: Wanted) -> list[int]:
    """The newest sentences."""
    return memory.best(np.arange(1, len(memory.past.sentences.starts) + 1, dtype=np.float32), wanted)


def at_random(memory: Memory, wanted: Wanted) -> list[int]:
    """Random sentences, drawn once for the notes."""
    return memory.best(memory.lottery, wanted)


def bm25(memory: Memory, wanted: Wanted) -> list[int]:
    """BM25 over sentences, Lucene's variant, by the package bm25s (arXiv 2407.03618), k1 = 1.2 and b = 0.75."""
    known = memory.retriever.vocab_dict
    words = [word for word in map(str, sorted(set(wanted.words))) if word in known]
    if not words:
        return memory.best(np.zeros(len(memory.past.sentences.starts), np.float32), wanted)
    return memory.best(memory.retriever.get_scores(words).astype(np.float32), wanted)


def mean_key(memory: Memory, wanted: Wanted) -> list[int]:
    """Sentences of the blocks whose mean keys are most similar to the mean query, all layers and heads as one vector.

    The similarity is the cosine after subtracting the mean of all blocks.
    """
    if wanted.queries is None:
        return []
    parts = []
    for queries, keys in zip(wanted.queries, memory.keys, strict=True):
        query = queries.float().cpu().unflatten(0, (len(keys), -1)).mean((1, 2))
        means = keys.unflatten(1, (-1, BLOCK)).mean(2)
        parts.append((query.flatten(), (means - means.mean(1, keepdim=True)).transpose(0, 1).flatten(1)))
    query, means = torch.cat([q for q, _ in parts]), torch.cat([m for _, m in parts], 1)
    alike = 2 + torch.cosine_similarity(means, query[None])
    starts = np.array(memory.past.sentences.starts)
    last = len(alike) - 1
    first, end = np.minimum(starts // BLOCK, last), np.minimum((np.append(starts[1:], starts[-1:]) - 1) // BLOCK, last)
    return memory.best(np.maximum(alike.numpy()[first], alike.numpy()[end]), wanted)


def oracle(memory: Memory, wanted: Wanted) -> list[int]:
    """Sentences with the most exact attention from the question's queries over all stored keys.

    Without positions, since rotated keys mean nothing far beyond the context length of the model's training.
    """
    if wanted.queries is None:
        return []
    mass = torch.zeros(memory.past.tokens)
    for queries, keys, scaling in zip(wanted.queries, memory.keys, memory.prism.scalings, strict=True):
        grouped = queries.float().cpu().unflatten(0, (len(keys), -1)).flatten(1, 2)
        mass += (grouped @ keys.mT * scaling).softmax(-1).sum((0, 1))
    sentences = memory.past.sentences
    numbers = np.array(sentences.numbers[: len(mass)])
    worth = np.bincount(numbers, mass.numpy(), len(sentences.starts)).astype(np.float32)
    return memory.best(worth, wanted)


def planted(memory: Memory, wanted: Wanted) -> list[int]:
    """Exactly the fact: remaining errors are the model's reading."""
    return list(memory.planted)


def default_methods() -> list[str]:
    """The methods available here: `bm25` needs the package bm25s, from the extra `eval`."""
    return [name for name in METHODS if name != "bm25" or find_spec("bm25s")]


METHODS: dict[str, Method] = {
    "ours": ours,
    "recency": recency,
    "random": at_random,
    "bm25": bm25,
    "mean-key": mean_key,
    "shuffled": shuffled,
    "fingerprints": fingerprints,
    "oracle": oracle,
    "planted": planted,
}


class Answered(NamedTuple):
    """One question: whether the fact was in the working set, and whether the answer was right."""

    found: bool
    right: bool


class Reader:
    """A River that has read notes, and questions on them with a given recall method."""

    def __init__(self, prism: Prism, profile: Profile, budget: int, tokens: int, seed: int) -> None:
        self.facts = make_facts(random.Random(seed), prism, tokens)
        self.read(prism, profile, budget, "\n".join(self.facts), seed)

    def read(self, prism: Prism, profile: Profile, budget: int, text: str, seed: int) -> None:
        """Reads notes. The window, and what may be recalled, have `budget` tokens each."""
        settings = {
            "memory": profile.memory.model_copy(update={"window": budget, "recall": budget}),
            "river": profile.river.model_copy(update={"max_tokens": _ANSWER}),
        }
        self.session = Session(prism, profile.model_copy(update=settings), streams=False)
        self.session.load_notes(text)
        self.river = self.session.river
        self.river.make_room()  # the tail is at its shortest, so that no turn moves tokens and all start equal
        self.memory = Memory(prism, self.river.past, seed)
        self._seed = seed

    def plant(self, depth: int, kind: str, wording: str = "said") -> tuple[range, pocket.Case]:
        """The last fact that ends at least `depth` tokens before the end of the notes, and a question on it.

        Wordings differ only in the spelling of the name and the thing.
        """
        sentences = self.river.sentences
        number = sentences.numbers[len(sentences.ids) - depth]
        while True:
            number -= 1
            tokens = range(sentences.starts[number], sentences.starts[number + 1])
            fact = self.facts.get(" ".join(sentences.lines(tokens)))
            if fact is not None:
                written = WORDINGS[wording]
                asked = replace(
                    fact,
                    person=written(fact.person),
                    thing=Thing(written(fact.thing.one), written(fact.thing.many)),
                )
                rng = random.Random(f"{self._seed} {depth} {kind}")
                answer = pocket.QUESTIONS[kind](world.World((asked,), {}), rng)
                assert answer is not None
                return tokens, pocket.Case(kind, "", answer.question, answer.value)

    def ask(self, method: Method, tokens: range, case: pocket.Case) -> Answered:
        """Asks, judges, and rewinds the turn."""
        return self.answered(method, tokens, case.question, lambda text: pocket.is_right(case, text))

    def answered(self, method: Method, tokens: range, question: str, right: Callable[[str], bool]) -> Answered:
        """Asks for a fact with a recall method and rewinds the turn. `right` judges the reply."""
        first: list[set[int]] = []
        past = self.river.past
        self.memory.planted = tokens

        def look_for(
            words: Iterable[int],
            queries: Sequence[Tensor] | None,
            budget: int,
            among: range,
            least: float = 0.0,
            tail: Tail | None = None,
        ) -> list[int]:
            chosen = method(self.memory, Wanted(list(words), queries, budget, among, least))
            assert len(chosen) <= budget, "a method exceeded its budget"
            first.append(set(chosen))
            return chosen

        past.look_for = look_for  # type: ignore[method-assign]
        try:
            events = list(self.session.send(question))
        finally:
            del past.look_for
        text = "".join(e.text for e in events if isinstance(e, RiverText) and not (e.request or e.thinking))
        self.session.undo()
        return Answered(first[0].issuperset(tokens), right(text))


def make_facts(rng: random.Random, prism: Prism, tokens: int) -> dict[str, world.Fact]:
    """Notes of at least `tokens` tokens, in words not in the training data; no two on the same person and thing.

    Many share one of the two, so that neither word alone identifies a note.
    """
    facts: dict[str, world.Fact] = {}
    size = 0
    for fact in world.make_world(Words(rng, "held-out", 0.5), tokens // _TOKENS_A_NOTE + 8).facts:
        sentence = fact.sentence(len(facts) % 2)
        facts[sentence] = fact
        size += len(prism.encode(sentence + "\n"))
        if size >= tokens:
            break
    return facts


def run(
    prism: Prism,
    profile: Profile,
    budget: int,
    depths: Sequence[int],
    n: int,
    seed: int,
    methods: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    wordings: Sequence[str] = tuple(WORDINGS),
) -> Iterator[Result]:
    """Each method at each depth over `n` notes; the same questions for all of them.

    Args:
        budget: tokens that may come back; the window of newest tokens is as long.
        depths: in budgets.
        wordings: of the question on each fact.

    Yields:
        Methods by depth over all wordings, then the same for each wording.
    """
    found: dict[tuple[str, int, str], list[Answered]] = {
        (m, d, w): [] for w in wordings for d in depths for m in methods
    }
    for i in range(n):
        reader = Reader(prism, profile, budget, (max(depths) + 1) * budget, seed + i)
        for depth in depths:
            for wording in wordings:
                tokens, case = reader.plant(depth * budget, KINDS[i % len(KINDS)], wording)
                for method in methods:
                    found[method, depth, wording].append(reader.ask(METHODS[method], tokens, case))
        reader.river.past.close()
        progress(i + 1, n)
    for depth in depths:
        for method in methods:
            every = [a for wording in wordings for a in found[method, depth, wording]]
            yield result_of(method, depth * budget, every)
    for (method, depth, wording), answers in found.items():
        yield result_of(method, depth * budget, answers, wording)


def result_of(method: str, depth: int, answers: Sequence[Answered], wording: str = "") -> Result:
    """Sums up the answers of one method at a depth in tokens."""
    n, right = len(answers), sum(a.right for a in answers)
    return Result(method, depth, right / n, interval(right, n), n, sum(a.found for a in answers) / n, wording)


def as_json(results: Sequence[Result], budget: int, model: str, seed: int) -> dict[str, Any]:
    """The contract of `eval recall --json`."""
    return {
        "schema_version": 1,
        "budget": budget,
        "model": model,
        "seed": seed,
        "results": [_without_wording(r) for r in results if not r.wording],
        "by_wording": [{"wording": r.wording, **_without_wording(r)} for r in results if r.wording],
    }


def _without_wording(result: Result) -> dict[str, Any]:
    return {name: value for name, value in vars(result).items() if name != "wording"}


def grids(results: Sequence[Result], budget: int) -> list[Grid]:
    """Right answers and recalled facts by method and depth, over all wordings and for each."""
    depths = sorted({r.depth for r in results})
    methods = list(dict.fromkeys(r.method for r in results))
    heads = ("method", *(f"{d} tokens" for d in depths))
    out = []
    wordings = dict.fromkeys(r.wording for r in results)
    for wording in wordings if len(wordings) > 2 else [w for w in wordings if w]:
        of = {(r.method, r.depth): r for r in results if r.wording == wording}
        n = of[methods[0], depths[0]].n
        how = {"": "all wordings", "said": "worded as the note"}.get(wording, f"misspelled, letters {wording}")
        right = tuple((m, *(share(of[m, d].recall, of[m, d].ci95) for d in depths)) for m in methods)
        found = tuple((m, *(f"{of[m, d].found:.0%}" for d in depths)) for m in methods)
        out += [
            Grid(f"{how}: right answers by depth of the fact, budget of {budget} tokens, n = {n}", heads, right),
            Grid(f"{how}: the fact was in the working set", heads, found),
        ]
    return out
