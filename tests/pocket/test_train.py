"""Training goes on from finished weights, and its rate is that of the lesson it is in."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import warpcortex_cli.pocket
from warpcortex_cli.pocket import train
from warpcortex_cli.pocket.conversation import Mix

SHIPPED = Path(warpcortex_cli.pocket.__file__).parent / "weights"


def test_from_weights_only_the_last_lesson_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = train.Stage(2, 1, (2, 3), 120, 250, mix=Mix(), mostly_few=True)
    monkeypatch.setattr(train, "SUMS_STEPS", 2)
    monkeypatch.setattr(train, "LESSONS", (*train.CURRICULUM, train.FINISH, short))
    train.train(tmp_path, seed=1, threads=1, device="cpu", start=SHIPPED, inline=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == sum(stage.steps for stage in (*train.CURRICULUM, train.FINISH)) + 2
    assert (tmp_path / "tokenizer.json").read_text() == (SHIPPED / "tokenizer.json").read_text()
    before, after = (load_file(folder / "model.safetensors") for folder in (SHIPPED, tmp_path / "weights"))
    assert before.keys() == after.keys()
    moved = max(float((after[name].float() - before[name].float()).abs().max()) for name in before)
    assert 0 < moved < 0.05


def test_each_lesson_ends_at_a_rate_of_nothing() -> None:
    ends = [sum(s.steps for s in train.CURRICULUM)]
    ends += [ends[0] + train.FINISH.steps, ends[0] + train.FINISH.steps + train.SUMS_STEPS]
    assert sum(stage.steps for stage in train.LESSONS) == ends[-1]
    for end in ends:
        assert train.schedule(end - 1) < 0.02
    assert train.schedule(ends[0]) == train.FINISH_RATE
    assert train.schedule(ends[1]) < 0.02 and max(train.schedule(ends[1] + i) for i in range(train.SUMS_STEPS)) < 1


@pytest.mark.parametrize(("mostly_few", "share"), [(False, 0.2), (True, 0.5)])
def test_mostly_few_notes_are_few(mostly_few: bool, share: float) -> None:
    stage = train.Stage(1, 1, (4, 64), 400, 250, mostly_few=mostly_few)
    rng = random.Random(1)
    drawn = [stage.draw_notes(rng) for _ in range(2000)]
    assert min(drawn) == 4 and max(drawn) == 64
    assert sum(notes < 16 for notes in drawn) / len(drawn) == pytest.approx(share, abs=0.05)
