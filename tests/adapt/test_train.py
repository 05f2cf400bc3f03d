"""An adapter learns, goes on after it was stopped, and is then served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from warpcortex_cli.adapt import checkpoint
from warpcortex_cli.adapt.batches import epoch
from warpcortex_cli.adapt.conversations import Example
from warpcortex_cli.adapt.run import write_adapter
from warpcortex_cli.adapt.train import Settings, Training
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.prism import Prism, Row

SETTINGS = Settings(rank=4, rate=2e-2, epochs=3, batch_tokens=64)


def examples(n: int, start: int = 0) -> list[Example]:
    """Sequences that count on from where they begin; the first two tokens are not learnt."""
    found = []
    for i in range(start, start + n):
        first, length = 40 + (i * 7) % 60, 5 + i % 4
        found.append(Example(tuple(range(first, first + length)), (False, False, *[True] * (length - 2))))
    return found


Make = Callable[..., Training]


@pytest.fixture
def make(model_folder: Callable[[str], Path], tmp_path: Path) -> Make:
    def training(
        folder: str = "out", architecture: str = "qwen2", of: str = "this", settings: Settings = SETTINGS
    ) -> Training:
        model = AutoModelForCausalLM.from_pretrained(model_folder(architecture), dtype=torch.float32)
        model.requires_grad_(False)
        (tmp_path / folder).mkdir(exist_ok=True)
        return Training(model, settings, examples(24), examples(6, start=24), tmp_path / folder, of)

    return training


@pytest.mark.parametrize(("architecture", "gain"), [("qwen2", 0.3), ("gemma2", 0.01)])  # it caps its logits
def test_it_learns_what_was_held_out_too(make: Make, architecture: str, gain: float) -> None:
    training = make(architecture=architecture)
    before = training.held_out_loss()
    steps = list(training.run())
    assert training.held_out_loss() < before - gain
    assert steps[-1].number == training.steps == training.progress.step
    assert steps[-1].loss < steps[0].loss


def test_a_training_that_was_killed_ends_as_one_that_was_not(make: Make) -> None:
    short = replace(SETTINGS, epochs=1)
    whole, first = make("whole", settings=short), make("killed", settings=short)
    list(whole.run())
    middle = first.steps // 2
    list(islice(first.run(), middle))
    saved = checkpoint.load(first.folder, "this", {})
    assert 0 < saved.step <= middle
    second = make("killed", settings=short)
    list(second.run())
    assert second.progress.losses == whole.progress.losses
    for one, other in zip(second.weights, whole.weights, strict=True):
        assert torch.equal(one, other)


def test_what_was_learnt_is_served(make: Make, make_prism: Callable[[str], Prism], tmp_path: Path) -> None:
    training = make()
    list(training.run())
    write_adapter(training, training.folder, "qwen2", "a card")
    prism, ids = make_prism("qwen2"), list(range(50, 58))
    prism.open_adapter(str(training.folder))
    row = Row(ids, list(range(len(ids))), prism.new_tail(), logits="all", adapter=str(training.folder))
    served = prism.forward([row])[0].logits
    training._only_learnt._learnt = torch.ones(1, len(ids) - 1, dtype=torch.bool)
    with torch.inference_mode():
        theirs = training.model(input_ids=torch.tensor([ids])).logits[0]
    assert served is not None
    torch.testing.assert_close(served[:-1], theirs, atol=2e-2, rtol=2e-2)  # it is kept in bf16
    plain = prism.forward([Row(ids, list(range(len(ids))), prism.new_tail(), logits="all")])[0].logits
    assert plain is not None and (plain - served).abs().max() > 0.5


def test_it_ends_early_where_nothing_is_gained(make: Make) -> None:
    training = make(settings=Settings(rank=2, rate=1e-12, epochs=50, batch_tokens=64, patience=2))
    steps = list(training.run())
    assert training.progress.over
    assert steps[-1].number < training.steps


def test_another_training_and_a_damaged_one_are_refused(make: Make, tmp_path: Path) -> None:
    list(islice(make().run(), 8))
    with pytest.raises(UsageError, match="another model, file or setting"):
        make(of="that")
    path = tmp_path / "out" / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="damaged"):
        make()


def test_batches_hold_every_example_once_and_keep_to_their_size() -> None:
    some = examples(50)
    batches = epoch(some, 40, 3)
    assert sorted(n for batch in batches for n in batch) == list(range(50))
    assert all(len(batch) * max(len(some[n]) for n in batch) <= 40 for batch in batches)
    assert batches != epoch(some, 40, 4)
    assert batches == epoch(some, 40, 3)
