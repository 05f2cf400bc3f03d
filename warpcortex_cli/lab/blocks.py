"""How many tokens should a block have? `python -m warpcortex_cli.lab.blocks --blocks 16,32,64,128`.

Each size gets the same questions on the same notes, and the same number of tokens is recalled: either the best blocks,
or, like the River, the best whole sentences, by their words and their blocks' fingerprints. The tokens unpacked for
these are counted, too. Packed bytes and their error are as in `lab.formats`.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np
import torch

from warpcortex_cli.engine.heads import calibrated
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.lab import formats
from warpcortex_cli.lab.fingerprints import (
    Question,
    Scores,
    Text,
    ask,
    by_words,
    read_notes,
    recall,
    scan_ms,
)
from warpcortex_cli.memory.formats import POLICIES
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.pocket import vocabulary, world
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.synapse.worth import Spans, shared_words, weighed

KINDS = ("count", "place", "colour", "total", "price", "cost", "typo")
FORMATS = ("8", "8/4", "ladder")
_TOKENS_PER_NOTE = 27
_SEARCHED = 3_200_000  # tokens of a timed search


@dataclass
class Sums:
    """Results of one block size: per question the share found, and the tokens unpacked."""

    blocks: list[float] = field(default_factory=list)
    sentences: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    unpacked: list[int] = field(default_factory=list)


def best_sentences(text: Text, words: list[int], fingerprints: Scores, budget: int) -> list[range]:
    """The best whole notes with at most `budget` tokens. `fingerprints`: a score per block."""
    notes = sorted((n for n in text.notes.values() if n.stop <= text.blocks * text.block), key=lambda n: n.start)
    starts, ends = (np.array(at, np.intp) for at in zip(*((n.start, n.stop) for n in notes), strict=True))
    of_tokens = np.array(text.words)
    sentences = Spans(starts, ends, np.zeros(len(notes), np.bool_))
    shared = shared_words(words, lambda word: np.flatnonzero(of_tokens == word), sentences)
    near = np.array([max(fingerprints[b] for b in text.blocks_of(n)) for n in notes], np.float32)
    chosen: list[range] = []
    for place in np.argsort(-weighed(shared, near), kind="stable"):
        if len(notes[place]) > budget:
            break
        chosen.append(notes[place])
        budget -= len(notes[place])
    return chosen


def judge(prism: Prism, text: Text, questions: list[Question], budget: int, sums: Sums) -> None:
    """Adds the results of one text, cut into blocks of `text.block` tokens."""
    fingerprints = calibrated(prism, text.block)
    fingerprints.extend(fingerprints.of_blocks(text.keys, text.block))
    for question in questions:
        alone = fingerprints.scores(question.queries)
        both = weighed(by_words(text, question.words), alone)
        wanted = [text.blocks_of(tokens) for tokens in question.wanted]
        sums.blocks.append(recall(both, wanted, budget // text.block)[0])
        chosen = best_sentences(text, [], alone, budget)
        sums.alone.append(fmean(w in chosen for w in question.wanted))
        chosen = best_sentences(text, question.words, alone, budget)
        sums.sentences.append(fmean(w in chosen for w in question.wanted))
        sums.unpacked.append(text.block * len(set().union(*map(text.blocks_of, chosen))))


def run(prism: Prism, sizes: list[int], budget: int, texts: int, tokens: int, n: int, seed: int) -> dict[int, Sums]:
    """All block sizes over the same questions, `n` of each kind on each of `texts` texts."""
    rng = random.Random(seed)
    found = {size: Sums() for size in sizes}
    for number in range(texts):
        w = world.make_world(vocabulary.Words(rng, "held-out"), tokens // _TOKENS_PER_NOTE)
        text, before = read_notes(prism, w, rng)
        text = replace(text, block=max(sizes))  # so that wanted notes are in whole blocks of any size
        asked = [
            ask(prism, w, text, before, kind, rng)
            for kind in KINDS
            for _ in range(n * (number + 1) // texts - n * number // texts)
        ]
        for size in sizes:
            judge(prism, replace(text, block=size), [q for q in asked if q is not None], budget, found[size])
    return found


def _share(found: list[float]) -> str:
    low, high = interval(round(sum(found)), len(found))
    return f"{fmean(found):.1%} ({low:.0%} to {high:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", default="16,32,64,128", help="tokens in a block; each divides the largest")
    parser.add_argument("--budget", type=int, default=256, help="tokens recalled")
    parser.add_argument("--n", type=int, default=60, help="questions of each kind")
    parser.add_argument("--tokens", type=int, default=8000, help="tokens of each text, about")
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--seed", type=int, default=52)
    parser.add_argument("--model", default="pocket")
    args = parser.parse_args()
    parts = [part.strip() for part in args.blocks.split(",")]
    sizes = sorted({int(p) for p in parts if p.isdecimal() and int(p) > 0})
    if len(sizes) < len(set(parts)) or any(sizes[-1] % size for size in sizes):
        parser.error(f"--blocks {args.blocks}: give numbers that divide the largest of them, such as 16,32,64.")
    if args.budget < sizes[-1]:
        parser.error(f"--budget {args.budget}: it must hold a block of {sizes[-1]} tokens.")
    torch.set_num_threads(1)  # the figures are for one core
    prism = Prism.load(resolve_model(args.model, "auto"), device="cpu")
    found = run(prism, sizes, args.budget, args.texts, args.tokens, args.n, args.seed)
    count = len(found[sizes[0]].blocks)
    print(
        f"{args.model}, {count} questions, {args.budget} tokens recalled, seed {args.seed}; the River's blocks: {BLOCK}"
    )
    heads = "blocks", "found, best blocks", "found, sentences", "by fingerprints alone", "unpacked"
    print(
        "| " + " | ".join((*heads, *(f"{f}: bytes, error" for f in FORMATS), "fingerprint bytes", "search ms")) + " |"
    )
    print("|" + "---|" * (len(heads) + len(FORMATS) + 2))
    policies = {str(name): policy for name, policy in POLICIES.items() if name in FORMATS}
    for size in sizes:
        sums = found[size]
        packed = {r.policy: r for r in formats.judge(prism, policies, args.seed, 10, block=size)}
        cells = (
            f"{size}", _share(sums.blocks), _share(sums.sentences), _share(sums.alone), f"{fmean(sums.unpacked):.0f}",
            *(f"{packed[f].bytes_per_token:,.0f}, {packed[f].attention_error:.4f}" for f in FORMATS),
            f"{calibrated(prism, size).bytes_per_block / size:.0f}",
            f"{scan_ms(_SEARCHED // size, 16, block=size):.1f}",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    print(f"bytes are for each token; a search of 16 queries is among {_SEARCHED:,} tokens")


if __name__ == "__main__":
    main()
