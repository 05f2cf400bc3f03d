"""Do fingerprints find the block of a note that is asked for? `python -m warpcortex_cli.lab.fingerprints`.

Notes are read in windows, with the question after the last one; its queries or words then rank all blocks. `found` is
the share of notes with some block among the best B, `whole` the share with all blocks among them, where every block
scores at least as much as the one before it (text goes on). Questions on a price name the thing in the singular, which
its note has in either form, those on a cost only in the plural; `typo` swaps letters of the name and the thing;
`who-else` asks for notes that share no word with it, and `then` for the same ones after the River has said the first.

Methods besides the product's: `live queries` are fingerprints of the queries of a block's own tokens, in the same
heads, instead of its keys. `keys + live` adds both scores, with half the bits each or with all bits in twice the bytes;
`keys, twice` spends these on more bits of the keys. The last column is the difference to the product, by words and
fingerprints or by fingerprints alone, on the same questions.
"""

from __future__ import annotations

import argparse
import copy
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warpcortex_cli.engine.heads import calibrated, read
from warpcortex_cli.engine.text import Words
from warpcortex_cli.eval.misspelled import swapped
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.memory.fingerprints import BITS, Fingerprints
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.pocket import vocabulary, world
from warpcortex_cli.pocket.vocabulary import Thing
from warpcortex_cli.pocket.world import Answer, Fact, World
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.synapse.worth import Spans, shared_words, weighed

_ASKED: dict[str, Callable[[World, random.Random], Answer | None]] = {
    "count": world.ask_count,
    "place": world.ask_place,
    "colour": world.ask_colour,
    "total": world.ask_total,
    "price": world.ask_price,
    "cost": world.ask_cost,
    "typo": lambda w, rng: _mistyped(w, rng),
    "who-else": world.ask_who_else,
    "then": world.ask_who_else,
}
_WINDOW = 512  # tokens per window, each after as many
_TOKENS_PER_NOTE = 27
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Text:
    """A text that was read: unrotated keys per layer [kv_heads, tokens, head_dim]; words [tokens]; each note's tokens.

    `block`: tokens in a block. `queries`: of the text's tokens, per layer [heads, tokens, head_dim], unrotated.
    """

    keys: list[Tensor]
    words: list[int]
    notes: dict[Fact | Thing, range]
    block: int = BLOCK
    queries: tuple[Tensor, ...] = ()

    @property
    def blocks(self) -> int:
        """The number of whole blocks; the rest is still in the tail."""
        return self.keys[0].shape[1] // self.block

    def blocks_of(self, tokens: range) -> set[int]:
        """Numbers of the blocks that hold these tokens."""
        return set(range(tokens.start // self.block, (tokens.stop - 1) // self.block + 1))


@dataclass(frozen=True)
class Question:
    """Unrotated queries per layer [heads, W, head_dim], words, and the tokens of each wanted note."""

    kind: str
    queries: list[Tensor]
    words: list[int]
    wanted: list[range]


def read_notes(prism: Prism, w: World, rng: random.Random) -> tuple[Text, list[int]]:
    """A world's notes, and their last tokens, after which questions are read."""
    ids: list[int] = []
    places: dict[str, range] = {}
    for line in world.sentences_of(w, rng):
        tokens = prism.encode(f"{line}\n")
        places[line] = range(len(ids), len(ids) + len(tokens) - 1)
        ids += tokens
    opening = [*prism.chat.opening(""), *prism.chat.user_open()]
    parts = [
        read(prism, [*opening, *ids[max(0, start - _WINDOW) : start]], ids[start : start + _WINDOW])
        for start in range(0, len(ids), _WINDOW)
    ]
    words = Words(prism)
    words.extend(ids)
    notes: dict[Fact | Thing, range] = {}
    for fact in w.facts:
        notes[fact] = next(places[s] for s in map(fact.sentence, range(world.STYLES)) if s in places)
    for thing, price in w.prices.items():
        lines = f"One {thing.one} costs {price} coins.", f"The price of one {thing.one}: {price} coins."
        notes[thing] = next(places[s] for s in lines if s in places)
    keys, queries = ([torch.cat([p[side][i] for p in parts], 1) for i in range(prism.layers)] for side in (0, 1))
    return Text(keys, list(words.numbers), notes, queries=tuple(queries)), [*opening, *ids[-_WINDOW:]]


def ask(prism: Prism, w: World, text: Text, before: list[int], kind: str, rng: random.Random) -> Question | None:
    """A question of this kind; None if this world has none, or its notes are not in whole blocks."""
    answer = _ASKED[kind](w, rng)
    wanted = [text.notes[note] for note in _wanted(kind, w, answer.question)] if answer else []
    if answer is None or not wanted or any(places.stop > text.blocks * text.block for places in wanted):
        return None
    ids = [*prism.encode(f"\n{answer.question}"), *prism.chat.user_close()]
    if kind == "then":
        ids += prism.encode(answer.start)
    words = Words(prism)
    words.extend(ids)
    queries = read(prism, before, ids)[1]
    return Question(kind, queries, list(words.numbers), wanted)


def _wanted(kind: str, w: World, question: str) -> list[Fact | Thing]:
    """The notes needed for a question, found by its words (for `who-else`: the others)."""

    def named(text: str) -> bool:
        return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", question) is not None

    if kind == "price":
        return [t for t in w.prices if named(t.one)]
    if kind == "total":
        return [f for f in w.facts if named(f.name)]
    typed = swapped if kind == "typo" else str
    about = next(f for f in w.facts if named(typed(f.person)) and named(typed(f.thing.many)))
    if kind == "cost":
        return [about.thing]
    if kind in ("who-else", "then"):
        return [f for f in w.facts if f.place == about.place and f.person != about.person]
    return [about]


def _mistyped(w: World, rng: random.Random) -> Answer:
    fact = rng.choice(w.facts)
    question = f"How many {swapped(fact.thing.many)} does {swapped(fact.person)} have?"
    return Answer(question, "count", "", value=str(fact.count))


def by_words(text: Text, words: Sequence[int]) -> Scores:
    """Scores of blocks by shared words, with BM25's inverse document frequencies."""
    starts, of_tokens = text.block * np.arange(text.blocks), np.array(text.words)
    blocks = Spans(starts, starts + text.block, np.zeros(text.blocks, np.bool_))
    return shared_words(words, lambda word: np.flatnonzero(of_tokens == word), blocks)


def by_vectors(fingerprints: Fingerprints, text: Text, vectors: Sequence[Tensor], queries: Sequence[Tensor]) -> Scores:
    """The ceiling: exact dot products in the fingerprints' heads, as for focus sets.

    `vectors`: of all tokens, the keys or an alternative.
    """
    ends = text.block * torch.arange(1, text.blocks + 1)
    watched = [vectors[layer][head, : text.blocks * text.block] for layer, head in fingerprints.watches]
    scores: Scores = fingerprints.exact(watched, queries, ends).numpy()
    return scores


def by_mean_key(fingerprints: Fingerprints, text: Text, queries: Sequence[Tensor]) -> Scores:
    """Dot products of the mean query and each block's mean key in the same heads."""
    total = torch.zeros(text.blocks)
    for layer, head in fingerprints.watches:
        keys = text.keys[layer][head, : text.blocks * text.block].unflatten(0, (-1, text.block))
        query = queries[layer].unflatten(0, (text.keys[layer].shape[0], -1)).mean(1)[head]
        total += keys.mean(1) @ query.mean(0)
    return total.numpy()


def live_queries(text: Text) -> list[Tensor]:
    """Queries of the text's own tokens, averaged over the heads of each KV head, in the shape of `text.keys`."""
    pairs = zip(text.queries, text.keys, strict=True)
    return [q.float().unflatten(0, (len(k), -1)).mean(1) for q, k in pairs]


def made_of(none: Fingerprints, text: Text, live: bool = False, bits: int = BITS, other: bool = False) -> Fingerprints:
    """Fingerprints of all blocks, of keys or of live queries, in the heads of `none`, with `bits` bits.

    `other`: by other random projections than those of `none`.
    """
    fingerprints = copy.copy(none)
    fingerprints._projection = none._projection.clone()
    if other:
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((len(fingerprints._projection),) * 2))[0]
        fingerprints._projection = torch.from_numpy(turn).float() @ fingerprints._projection
    fingerprints._projection[:, bits:] = 0  # a constant sign carries no information
    if live:
        fingerprints._key_mean = none._query_mean
    fingerprints.extend(fingerprints.of_blocks(live_queries(text) if live else text.keys, text.block))
    return fingerprints


@dataclass(frozen=True)
class Kept:
    """A text's fingerprints: of its keys, of its live queries, and of both with half the bits.

    `more`: additional bits of its keys.
    """

    text: Text
    keys: Fingerprints
    more: Fingerprints
    live: Fingerprints
    halves: tuple[Fingerprints, Fingerprints]

    @classmethod
    def of(cls, none: Fingerprints, text: Text) -> Kept:
        """`none`: empty fingerprints with their heads chosen."""
        halves = made_of(none, text, bits=BITS // 2), made_of(none, text, live=True, bits=BITS // 2)
        return cls(text, made_of(none, text), made_of(none, text, other=True), made_of(none, text, live=True), halves)


def methods(kept: Kept, question: Question, rng: np.random.Generator) -> dict[str, Scores]:
    """Scores of all blocks by each method."""
    text, fingerprints, queries = kept.text, kept.keys, question.queries
    ours, words, live = fingerprints.scores(queries), by_words(text, question.words), kept.live.scores(queries)
    twice = ours + kept.more.scores(queries)
    exact, exact_live = (by_vectors(fingerprints, text, v, queries) for v in (text.keys, live_queries(text)))
    return {
        "exact attention": exact,
        "fingerprints": ours,
        "words": words,
        "words + fingerprints": weighed(words, ours),
        "exact live queries": exact_live,
        "exact keys + live": exact + exact_live,
        "live queries": live,
        "keys + live, half each": kept.halves[0].scores(queries) + kept.halves[1].scores(queries),
        "keys + live, twice": ours + live,
        "keys, twice": twice,
        "words + live queries": weighed(words, live),
        "words + keys + live": weighed(words, ours + live),
        "words + keys, twice": weighed(words, twice),
        "mean key": by_mean_key(fingerprints, text, queries),
        "shuffled": rng.permutation(ours),
        "random": rng.random(text.blocks, np.float32),
    }


def recall(scores: Scores, wanted: Sequence[set[int]], budget: int) -> tuple[float, float]:
    """Shares of the wanted notes that are found, and found whole, among the `budget` best blocks."""
    best = set(np.argsort(-scores, kind="stable")[:budget].tolist())
    onwards = scores.copy()
    onwards[1:] = np.maximum(scores[1:], np.nextafter(scores[:-1], np.float32(-1)))
    reaching = set(np.argsort(-onwards, kind="stable")[:budget].tolist())
    return fmean(bool(w & best) for w in wanted), fmean(w <= reaching for w in wanted)


def difference(found: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """The mean difference of two methods over the same questions, and half its 95 % interval."""
    more = np.subtract(found, base)
    return float(more.mean()), float(1.96 * more.std() / np.sqrt(len(more)))


def scan_ms(blocks: int, width: int, runs: int = 9, block: int = BLOCK) -> float:
    """Median milliseconds of a search of `width` queries among random fingerprints."""
    rng = np.random.default_rng(0)
    fingerprints = Fingerprints(4, 4, 2, 64, block)
    fingerprints.extend(rng.integers(0, 1 << 63, (blocks, fingerprints.bytes_per_block // 8), dtype=np.uint64))
    queries = [torch.randn(4, width, 64) for _ in range(4)]
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        fingerprints.scores(queries)
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)[runs // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=60, help="questions of each kind")
    parser.add_argument("--tokens", type=int, default=8000, help="tokens of each text, about")
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--budgets", default="8,16,32", help="blocks to recall")
    parser.add_argument("--seed", type=int, default=51)
    parser.add_argument("--model", default="pocket")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the figures are for one core
    prism = Prism.load(resolve_model(args.model, "auto"), device="cpu")
    rng, shuffle = random.Random(args.seed), np.random.default_rng(args.seed)
    budgets = [int(b) for b in args.budgets.split(",")]
    found: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    blocks, indexing = 0, 0.0
    for number in range(args.texts):
        w = world.make_world(vocabulary.Words(rng, "held-out"), args.tokens // _TOKENS_PER_NOTE)
        text, before = read_notes(prism, w, rng)
        fingerprints = calibrated(prism)
        began = time.perf_counter()
        fingerprints.of_blocks(text.keys, BLOCK)
        blocks, indexing = blocks + text.blocks, indexing + time.perf_counter() - began
        kept = Kept.of(fingerprints, text)
        for kind in _ASKED:
            for _ in range(args.n * (number + 1) // args.texts - args.n * number // args.texts):
                question = ask(prism, w, text, before, kind, rng)
                if question is None:
                    continue
                wanted = [text.blocks_of(tokens) for tokens in question.wanted]
                for method, scores in methods(kept, question, shuffle).items():
                    for budget in budgets:
                        result = recall(scores, wanted, budget)
                        found.setdefault((method, budget, kind), []).append(result)
    print(f"heads (layer, KV head) {fingerprints.watches}, {fingerprints.bytes_per_block} bytes a block,", end=" ")
    print(f"{1000 * indexing / blocks:.3f} ms a block to make; {blocks // args.texts} blocks a text, seed {args.seed}")
    print(f"{'found / whole':24} {'B':>3}", *(f"{kind:>9}" for kind in _ASKED), "      all, 95 % interval  difference")

    def all_of(method: str, budget: int) -> list[float]:
        return [f for kind in _ASKED for f, _ in found.get((method, budget, kind), [])]

    for method, budget in dict.fromkeys((m, b) for m, b, _ in found):
        per_kind = [found.get((method, budget, kind), []) for kind in _ASKED]
        cells = [f"{fmean(f for f, _ in r):4.2f}/{fmean(w for _, w in r):4.2f}" if r else "-" for r in per_kind]
        every = all_of(method, budget)
        low, high = interval(round(sum(every)), len(every))
        product = "words + fingerprints" if method.startswith("words +") else "fingerprints"
        more, half = difference(every, all_of(product, budget))
        cells.append(f"{fmean(every):9.3f} {low:.3f} to {high:.3f} {more:+7.3f} ±{half:.3f}")
        print(f"{method:24} {budget:3}", *(f"{c:>9}" for c in cells))
    for count in (10_000, 100_000):
        times = ", ".join(f"{width} queries {scan_ms(count, width):.1f} ms" for width in (8, 16, 32))
        print(f"search of {count} blocks on one core: {times}")


if __name__ == "__main__":
    main()
