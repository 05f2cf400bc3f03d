"""Trains a LoRA adapter with peft: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.

The model's weights stay as they are. The adapter's master weights are fp32, rounded to the model's dtype to compute;
they are trained by Adam with a warm-up and a linear decay. Logits are computed only for tokens that are learnt.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from warpcortex_cli.adapt import checkpoint
from warpcortex_cli.adapt.batches import Batch, epoch
from warpcortex_cli.adapt.conversations import Example
from warpcortex_cli.errors import UsageError

_WARM_UP = 10  # steps
_LEAST_RATE = 0.02  # of the highest rate
_LEAST_GAIN = 1e-4  # nats by which the held-out loss must fall to count as better
_LONGEST_NORM = 1.0  # gradients are clipped to this norm
_SAVE_EVERY = 120.0  # seconds


@dataclass(frozen=True)
class Settings:
    """How an adapter is trained.

    Attributes:
        rank: of the adapter.
        targets: names of linear layers, or all-linear.
        alpha: the adapter's output is scaled by alpha / rank.
        rate: the highest learning rate.
        epochs: passes over the examples.
        minutes: the training ends after them, if that comes first.
        batch_tokens: tokens of a step, padding included.
        checks: of the held-out loss, in each epoch.
        patience: the training ends after so many checks without a lower loss.
    """

    rank: int = 8
    targets: str | tuple[str, ...] = "all-linear"
    alpha: int = 16
    rate: float = 1e-3
    epochs: float = 3.0
    minutes: float = math.inf
    batch_tokens: int = 1024
    checks: int = 4
    patience: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """A progress report. `held_out`: the held-out loss, if it was computed in this step."""

    number: int
    of: int
    loss: float
    tokens: int
    seconds: float
    held_out: float | None = None


class Training:
    """A LoRA adapter on a model, and how far it has been trained.

    Args:
        model: of transformers, unpacked, on its device; its linear layers get the adapter.
        folder: for checkpoints; it must exist.
        of: identifies model, data and settings; a checkpoint with another `of` is refused.

    Attributes:
        steps: of the whole training.

    Raises:
        UsageError: `folder` holds another training, or the model has no such layers.
    """

    def __init__(
        self,
        model: Any,
        settings: Settings,
        learnt: Sequence[Example],
        held_out: Sequence[Example],
        folder: Path,
        of: str,
    ) -> None:
        from peft import LoraConfig, get_peft_model

        self.settings, self.folder = settings, folder
        self._learnt, self._held_out = learnt, held_out
        self._order = (0, epoch(learnt, settings.batch_tokens, settings.seed))  # an epoch's number, and its batches
        self._ends = [len(self._order[1])]  # of epochs, in steps
        self.steps = max(1, math.ceil(settings.epochs * self._ends[0]))
        targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
        self.config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, task_type="CAUSAL_LM"
        )
        torch.manual_seed(settings.seed)
        self.base = model
        try:
            with warnings.catch_warnings():  # peft asks transformers by a name that will go
                warnings.simplefilter("ignore", FutureWarning)
                self.model = get_peft_model(model, self.config, autocast_adapter_dtype=False)
        except ValueError as error:
            raise UsageError(f"no adapter fits: {error}", "Name linear layers of this model.") from error
        self.model.eval()  # nothing is dropped
        self._device = next(model.parameters()).device
        self._used = [p for p in self.model.parameters() if p.requires_grad]
        self.weights = [p.detach().float().clone().requires_grad_() for p in self._used]
        self._best = [w.detach().clone() for w in self.weights]
        self._adam = torch.optim.AdamW(self.weights, lr=settings.rate, weight_decay=0.0)
        for weight in self.weights:  # Adam allocates its moments in its first step; `load` fills them
            weight.grad = torch.zeros_like(weight)
        self._rate_is(0.0)
        self._adam.step()
        for state in self._moments():
            state.zero_()
        self._only_learnt = _OnlyLearnt(model)
        self.progress = checkpoint.load(folder, of, self._kept())
        self._restore_count()
        self._write()

    @property
    def parameters(self) -> int:
        """The number of the adapter's values."""
        return sum(w.numel() for w in self.weights)

    @property
    def conversations(self) -> int:
        """The number of conversations learnt in an epoch."""
        return len(self._learnt)

    @property
    def held_out(self) -> int:
        """The number of conversations held out."""
        return len(self._held_out)

    def run(self) -> Iterator[Step]:
        """Trains to the end from the current progress, and yields a report after each step."""
        progress, total = self.progress, self.steps
        looks = self.settings.checks * max(1, round(self.settings.epochs))
        saved = began = time.monotonic()
        before = progress.seconds
        while self.done < 1 and not progress.over:
            batch, looked = self._batch(progress.step), int(self.done * looks)
            loss = self._step(batch)
            progress.step += 1
            progress.tokens += batch.ids.numel()
            progress.seconds = before + time.monotonic() - began
            held_out = None
            if int(self.done * looks) > looked:
                held_out = self._check()
            if held_out is not None or time.monotonic() - saved >= _SAVE_EVERY:
                self._save()
                saved = time.monotonic()
            yield Step(progress.step, total, loss, progress.tokens, progress.seconds, held_out)
        self._save()

    @property
    def done(self) -> float:
        """The share of the training that is done, by steps or by time; 1 at the end."""
        return max(self.progress.step / self.steps, self.progress.seconds / (60 * self.settings.minutes))

    def _epoch(self, number: int) -> list[list[int]]:
        if self._order[0] != number:
            self._order = (number, epoch(self._learnt, self.settings.batch_tokens, self.settings.seed + number))
        return self._order[1]

    def _batch(self, step: int) -> Batch:
        number = 0
        while step >= self._ends[number]:
            number += 1
            if number == len(self._ends):
                self._ends.append(self._ends[-1] + len(self._epoch(number)))
        first = self._ends[number - 1] if number else 0
        return Batch.of([self._learnt[n] for n in self._epoch(number)[step - first]], self._device)

    # -- a step -------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> float:
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        for used, weight in zip(self._used, self.weights, strict=True):
            assert used.grad is not None and weight.grad is not None
            weight.grad.copy_(used.grad)
            used.grad = None
        norm = nn.utils.clip_grad_norm_(self.weights, _LONGEST_NORM)
        if bool(torch.isfinite(norm)):
            self._rate_is(self.settings.rate * _share_of_rate(self.progress.step, self.done))
            self._adam.step()
            self._write()
        return float(loss.detach())

    def _loss(self, batch: Batch) -> Tensor:
        """The mean loss over learnt tokens, in nats."""
        logits = self._only_learnt.logits(batch)
        return nn.functional.cross_entropy(logits.float(), batch.targets)

    def _check(self) -> float | None:
        """Computes the held-out loss and keeps the best weights; ends the training if patience has run out."""
        progress = self.progress
        if not self._held_out:
            self._keep_best()
            return None
        loss = self.held_out_loss()
        better = loss < progress.least - _LEAST_GAIN
        progress.losses.append((progress.step, loss))
        if better:
            self._keep_best()
        since = [at for at, _ in progress.losses if at > progress.best]
        progress.over = len(since) >= self.settings.patience
        return loss

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """The held-out loss in nats a token, with the adapter's current weights."""
        total, tokens = 0.0, 0
        for some in epoch(self._held_out, self.settings.batch_tokens, 0):
            batch = Batch.of([self._held_out[n] for n in some], self._device)
            total += float(self._loss(batch)) * len(batch.targets)
            tokens += len(batch.targets)
        return total / tokens

    def _rate_is(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = rate

    # -- weights ------------------------------------------------------------------------------------------------

    def use_best(self) -> None:
        """Puts the best weights into the model."""
        self._write(self._best)

    @torch.no_grad()
    def _write(self, weights: Sequence[Tensor] | None = None) -> None:
        for used, weight in zip(self._used, weights or self.weights, strict=True):
            used.copy_(weight)

    def _keep_best(self) -> None:
        self.progress.best = self.progress.step
        for best, weight in zip(self._best, self.weights, strict=True):
            best.copy_(weight.detach())

    def _moments(self) -> list[Tensor]:
        names = ("exp_avg", "exp_avg_sq")
        return [self._adam.state[weight][name] for weight in self.weights for name in names]

    def _kept(self) -> dict[str, Sequence[Tensor]]:
        return {"weights": self.weights, "moments": self._moments(), "best": self._best}

    def _restore_count(self) -> None:
        """Restores Adam's step count, which its bias correction needs."""
        for weight in self.weights:
            self._adam.state[weight]["step"].fill_(self.progress.step)

    def _save(self) -> None:
        checkpoint.save(self.folder, self.progress, self._kept())


class _OnlyLearnt:
    """Computes logits only where a token is learnt: the head gets no other hidden states.

    The head is the largest product of a small model, and most tokens of a conversation are not learnt.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._learnt: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._pick)

    def logits(self, batch: Batch) -> Tensor:
        """Logits [learnt tokens, vocabulary]."""
        self._learnt = batch.learnt
        logits: Tensor = self._model(input_ids=batch.ids, use_cache=False).logits
        return logits[0]

    def _pick(self, head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self._learnt is not None
        return (given[0][:, :-1][self._learnt][None], *given[1:])


def _share_of_rate(step: int, done: float) -> float:
    """The share of the highest rate: a short warm-up, then a linear decay."""
    return min(1.0, (step + 1) / _WARM_UP) * max(_LEAST_RATE, 1 - done)
