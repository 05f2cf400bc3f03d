"""Training goes on from finished weights, and its rate is that of the lesson it is in."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import warpcortex_cli.pocket
from warpcortex_cli.lab.pocket import train
from warpcortex_cli.lab.pocket.conversation import Mix

SHIPPED = Path(warpcortex_cli.pocket.__file__).parent / "weights"


def test_from_weights_one_lesson_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = train.Stage(2, 1, (2, 3), 120, 250, mix=Mix(), mostly_few=True)
    monkeypatch.setattr(train, "LATER", {"short": (short,), "more": (short,)})
    monkeypatch.setattr(train, "LESSONS", (*train.CURRICULUM, train.FINISH, short, short))
    train.train(tmp_path, seed=1, threads=1, device="cpu", start=SHIPPED, lesson="short", inline=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == sum(stage.steps for stage in (*train.CURRICULUM, train.FINISH)) + 2
    assert (tmp_path / "tokenizer.json").read_text() == (SHIPPED / "tokenizer.json").read_text()
    before, after = (load_file(folder / "model.safetensors") for folder in (SHIPPED, tmp_path / "weights"))
    assert before.keys() == after.keys()
    moved = max(float((after[name].float() - before[name].float()).abs().max()) for name in before)
    assert 0 < moved < 0.05


def test_each_lesson_ends_at_a_rate_of_nothing() -> None:
    ends = [sum(s.steps for s in train.CURRICULUM)]
    ends += [ends[0] + train.FINISH.steps, *(train.span(lesson)[1] for lesson in train.LATER)]
    assert sum(stage.steps for stage in train.LESSONS) == ends[-1]
    for end in ends:
        assert train.schedule(end - 1) < 0.02
    assert train.schedule(ends[0]) == train.FINISH_RATE
    for lesson in train.LATER:
        first, last = train.span(lesson)
        assert train.schedule(first) < 0.02 and max(map(train.schedule, range(first, last))) < 1


@pytest.mark.parametrize(("mostly_few", "share"), [(False, 0.2), (True, 0.5)])
def test_mostly_few_notes_are_few(mostly_few: bool, share: float) -> None:
    stage = train.Stage(1, 1, (4, 64), 400, 250, mostly_few=mostly_few)
    rng = random.Random(1)
    drawn = [stage.draw_notes(rng) for _ in range(2000)]
    assert min(drawn) == 4 and max(drawn) == 64
    assert sum(notes < 16 for notes in drawn) / len(drawn) == pytest.approx(share, abs=0.05)


def orthogonalised(g: torch.Tensor) -> torch.Tensor:
    """Four Newton-Schulz steps in fp32 towards the nearest orthogonal matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    x = x.T if len(g) > g.shape[1] else x
    for _ in range(4):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if len(g) > g.shape[1] else x


@pytest.mark.parametrize("shape", [(160, 160), (80, 160), (448, 160), (160, 448)])
def test_torchs_muon_makes_the_updates_that_pocket_was_trained_with(shape: tuple[int, int]) -> None:
    """An implementation of its own gives the same steps."""
    make = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(0.05 * torch.randn(shape, generator=make))
    model = SimpleNamespace(model=SimpleNamespace(named_parameters=lambda: [("layers.0.mlp.up_proj.weight", weight)]))
    muon = next(o for o in train.optimizers_of(model) if isinstance(o, torch.optim.Muon))
    rate = muon.param_groups[0]["lr"]
    momentum, expected = torch.zeros(shape), weight.detach().clone()
    for _ in range(4):
        gradient = torch.randn(shape, generator=make)
        weight.grad = gradient.clone()
        before = weight.detach().clone()
        muon.step()
        momentum.lerp_(gradient, 0.05)
        update = orthogonalised(gradient.lerp(momentum, 0.95))
        change = -rate * max(1.0, shape[0] / shape[1]) ** 0.5 * update - rate * 0.01 * before
        expected += change
        assert float((weight.detach() - before - change).norm() / change.norm()) < 0.04
    assert float((weight.detach() - expected).norm() / expected.norm()) < 0.01
