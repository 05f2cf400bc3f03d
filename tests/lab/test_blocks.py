"""Sizes of blocks are compared over the same questions, at as many tokens recalled."""

from __future__ import annotations

import re
import sys
from statistics import fmean

import numpy as np
import pytest
import torch

from warpcortex_cli.lab import blocks
from warpcortex_cli.lab.blocks import best_sentences, run
from warpcortex_cli.lab.fingerprints import Text
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model


def test_whole_sentences_come_back_by_words_then_by_fingerprints() -> None:
    words = [number for number in range(1, 13) for _ in range(10)]  # 12 notes of a word of 10 tokens each
    notes = {number: range(10 * number, 10 * number + 10) for number in range(12)}
    text = Text([torch.zeros(1, 120, 4)], words, notes, block=16)  # type: ignore[arg-type]
    prints = np.zeros(text.blocks, np.float32)
    prints[4] = 1.0  # tokens 64 to 79, in notes 6 and 7
    assert {n.start for n in best_sentences(text, [3], prints, 30)} == {20, 60, 70}
    assert [n.start for n in best_sentences(text, [3], prints, 19)] == [20]
    assert {n.start for n in best_sentences(text, [], prints, 20)} == {60, 70}


def test_all_sizes_are_asked_the_same_and_small_blocks_need_less_unpacking() -> None:
    prism = Prism.load(resolve_model("pocket", "auto"), device="cpu")
    found = run(prism, [16, 64], 128, texts=1, tokens=1500, n=4, seed=3)
    small, large = found[16], found[64]
    assert len(small.blocks) == len(large.sentences) == len(small.unpacked) > 20
    assert fmean(small.unpacked) < fmean(large.unpacked) and min(small.unpacked) >= 96
    assert fmean(small.sentences) > 0.8 and fmean(small.sentences) > fmean(small.alone) - 0.05


def test_the_command_prints_a_row_for_each_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(blocks, "_SEARCHED", 6400)
    args = ["--blocks", "32,16", "--n", "1", "--texts", "1", "--tokens", "1200"]
    monkeypatch.setattr(sys, "argv", ["blocks", *args])
    blocks.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| \d", line)]
    assert [row.split(" | ")[0] for row in rows] == ["| 16", "| 32"]
    sizes = [int(re.findall(r"([\d,]+), 0\.", row)[0].replace(",", "")) for row in rows]
    assert sizes[0] > sizes[1] > 1024  # scales of a smaller block are shared by fewer tokens
    for wrong in (["--blocks", "16,33"], ["--blocks", "0"], ["--budget", "64", "--blocks", "128"]):
        monkeypatch.setattr(sys, "argv", ["blocks", *wrong])
        with pytest.raises(SystemExit) as left:
            blocks.main()
        assert left.value.code == 2
