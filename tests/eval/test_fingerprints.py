"""Fingerprints on pocket itself: its induction heads are found, and by them the notes that are asked for."""

from __future__ import annotations

import random
from statistics import fmean

import numpy as np

from warpcortex_cli.eval.fingerprints import ask, calibrated, methods, read_notes, recall
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
    prints = calibrated(prism)
    prints.extend(prints.of_blocks(text.keys, BLOCK))
    asked = [ask(prism, w, text, before, kind, rng) for kind in ("count", "place", "colour") * 6]
    found: dict[str, list[float]] = {}
    for question in filter(None, asked):
        for method, scores in methods(prints, text, question, np.random.default_rng(0)).items():
            found.setdefault(method, []).append(
                recall(scores, [text.blocks_of(tokens) for tokens in question.wanted], 4)[0]
            )
    assert len(found["random"]) > 10
    share = {method: fmean(results) for method, results in found.items()}
    assert share["fingerprints"] > 0.8 > share["mean key"] > share["shuffled"]


def test_recall_counts_notes_and_whole_ones() -> None:
    scores = np.array([0, 5, 0, 4, 0], np.float32)
    assert recall(scores, [{1}, {3, 4}], 2) == (1.0, 0.5)  # block 2 follows block 1
    assert recall(scores, [{1, 2}, {4}], 2) == (0.5, 0.5)
