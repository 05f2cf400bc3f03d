"""Fingerprints on pocket itself: its induction heads are found, and by them the notes that are asked for."""

from __future__ import annotations

import random
from statistics import fmean

import numpy as np
import torch

from warpcortex_cli.lab.fingerprints import (
    Kept,
    Question,
    Text,
    ask,
    calibrated,
    difference,
    live_queries,
    made_of,
    methods,
    read_notes,
    recall,
)
from warpcortex_cli.memory.fingerprints import Fingerprints
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model


def test_the_asked_for_note_is_found() -> None:
    prism = Prism.load(resolve_model("pocket", "auto"), device="cpu")
    rng = random.Random(5)
    w = world.make_world(Words(rng, "held-out"), 80)
    text, before = read_notes(prism, w, rng)
    kept = Kept.of(calibrated(prism), text)
    asked = [ask(prism, w, text, before, kind, rng) for kind in ("count", "place", "colour") * 6]
    found: dict[str, list[float]] = {}
    for question in filter(None, asked):
        for method, scores in methods(kept, question, np.random.default_rng(0)).items():
            found.setdefault(method, []).append(
                recall(scores, [text.blocks_of(tokens) for tokens in question.wanted], 4)[0]
            )
    assert len(found["random"]) > 10
    share = {method: fmean(results) for method, results in found.items()}
    assert min(share["fingerprints"], share["live queries"]) > 0.8 > share["mean key"] > share["shuffled"]


def test_live_queries_find_the_block_in_which_the_same_was_looked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, queries = ([torch.randn(h, 40 * BLOCK, 64, generator=generator) for _ in range(3)] for h in (2, 4))
    text = Text(keys, [0] * (40 * BLOCK), {}, queries=tuple(queries))
    assert live_queries(text)[1].allclose(torch.stack([queries[1][:2].mean(0), queries[1][2:].mean(0)]))
    kept = Kept.of(Fingerprints(3, 4, 2, 64), text)
    question = Question("", [q[:, 7 * BLOCK + 3 : 7 * BLOCK + 7] for q in queries], [], [])
    scores = methods(kept, question, np.random.default_rng(0))
    for method in ("exact live queries", "live queries", "keys + live, half each", "keys + live, twice"):
        assert scores[method].argmax() == 7
    for method in ("exact attention", "fingerprints"):
        assert scores[method].argmax() != 7


def test_half_of_the_bits_are_half_of_the_bits() -> None:
    text = Text([torch.randn(2, 4 * BLOCK, 64) for _ in range(3)], [], {})
    whole, half = (made_of(Fingerprints(3, 4, 2, 64), text, bits=bits).rows() for bits in (64, 32))
    assert (half == whole & np.uint64(0xFFFFFFFF)).all() and (whole != half).any()


def test_other_bits_of_the_same_keys_find_the_same_block() -> None:
    keys = [torch.randn(2, 40 * BLOCK, 64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    text, none = Text(keys, [], {}), Fingerprints(3, 4, 2, 64)
    same, other = made_of(none, text), made_of(none, text, other=True)
    looked_for = [k[:, 9 * BLOCK : 9 * BLOCK + 2].repeat_interleave(2, 0) for k in keys]
    assert (same.rows() != other.rows()).mean() > 0.9
    assert same.scores(looked_for).argmax() == other.scores(looked_for).argmax() == 9


def test_a_difference_is_of_the_same_questions() -> None:
    mean, half = difference([1, 1, 0, 1], [0, 1, 0, 0])
    assert mean == 0.5 and abs(half - 1.96 * 0.5 / 2) < 1e-9


def test_recall_counts_notes_and_whole_ones() -> None:
    scores = np.array([0, 5, 0, 4, 0], np.float32)
    assert recall(scores, [{1}, {3, 4}], 2) == (1.0, 0.5)  # block 2 follows block 1
    assert recall(scores, [{1, 2}, {4}], 2) == (0.5, 0.5)
