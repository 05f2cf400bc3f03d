"""Chooses the next token, greedily or by drawing. Each agent has its own generator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from warpcortex_cli.profile import Sampling

_FIRST_SORTED = 512  # most probable tokens to look at before the whole vocabulary is sorted


class SamplingError(ValueError):
    """One row's logits allow no choice. It is returned for that row, so that other rows are not affected."""


class Grammar(Protocol):
    """What a text must keep to, and how far it has come."""

    def allowed(self) -> Tensor:
        """Which tokens may come next: [vocabulary], bool."""
        ...

    def take(self, token: int) -> None:
        """Takes the next token."""
        ...


@dataclass(frozen=True)
class ReplyOptions:
    """What somebody asks of one reply, beside what the profile says.

    Attributes:
        seed: of its draws; None: they go on from those before.
        grammar: what its text keeps to. No thought then arrives inline, and nothing is written behind its end.
        bias: added to logits, by token.
        likeliest: how many of the likeliest tokens are told at each token, with log-probabilities; None: none is told.
    """

    seed: int | None = None
    grammar: Grammar | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    likeliest: int | None = None

    @property
    def changes(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return self.grammar is not None or bool(self.bias)

    def changed(self, row: Tensor) -> Tensor:
        """Logits [vocabulary] as they are to be chosen from; tokens that may not come are minus infinity."""
        if self.bias:
            places = torch.tensor([t for t in self.bias if t < len(row)], dtype=torch.long)
            row = row.index_add(0, places, torch.tensor([self.bias[int(t)] for t in places], dtype=row.dtype))
        return row if self.grammar is None else row.where(self.grammar.allowed(), -torch.inf)


AS_USUAL = ReplyOptions()


class Sampler:
    """How one agent chooses its tokens.

    Its generator lives on the CPU and gives one number a token, so what an agent writes depends on its seed and its
    logits, never on the rest of the batch. Settings mean what they mean in transformers' `generate`, and are applied
    in the same order.

    Args:
        temperature: divides the logits; 0 is greedy.
        top_p: the smallest set of most probable tokens with at least this probability is drawn from (nucleus sampling,
            arXiv 1904.09751).
        seed: any integer.
        top_k: only this many of the most probable tokens are drawn from; 0: all.
        min_p: tokens less probable than this share of the most probable one are not drawn (arXiv 2407.01082).
        repetition_penalty: divides positive logits of earlier tokens, and multiplies negative ones
            (CTRL, arXiv 1909.05858); 1: none.
        presence_penalty: taken off the logit of each token that is written already.
        frequency_penalty: the same, for each time that it is written.

    Attributes:
        change: changes logits [vocabulary] before a token is chosen.

    Raises:
        ValueError: a setting is outside of its range.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
    ) -> None:
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be 0 or more, not {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
        if top_k < 0:
            raise ValueError(f"top_k must be 0 or more, not {top_k}")
        if not 0 <= min_p <= 1:
            raise ValueError(f"min_p must be from 0 to 1, not {min_p}")
        if not (math.isfinite(repetition_penalty) and repetition_penalty > 0):
            raise ValueError(f"repetition_penalty must be above 0, not {repetition_penalty}")
        self.temperature, self.top_p, self.top_k, self.min_p = temperature, top_p, top_k, min_p
        self.repetition_penalty = repetition_penalty
        self.presence_penalty, self.frequency_penalty = presence_penalty, frequency_penalty
        self.seed = seed
        self.change: Callable[[Tensor], Tensor] | None = None
        self._generator: torch.Generator | None = None  # made on first use

    @classmethod
    def of(cls, settings: Sampling, own: Sampling, seed: int) -> Sampler:
        """A sampler with a profile's settings. Unset ones take the model's own values, or have no effect."""
        asked, model = settings.model_dump(exclude_none=True), own.model_dump(exclude_none=True)
        return cls(seed=seed, **{**model, **asked})

    @property
    def penalizes(self) -> bool:
        """Whether a choice depends on earlier tokens."""
        return self.repetition_penalty != 1 or self._counts

    @property
    def _counts(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty)

    @property
    def asks(self) -> Literal["largest", "last"]:
        """The logits that a row must ask for, so that this sampler can choose."""
        return "last" if self.temperature or self.penalizes or self.change else "largest"

    def draw(self, logits: Tensor, seen: Iterable[int] = (), written: Collection[int] = ()) -> int:
        """A token for finite-or-minus-infinity logits [vocabulary]; at least one is finite.

        Args:
            seen: earlier tokens, for the repetition penalty.
            written: those of them that the agent wrote in this text, for the other two.

        Raises:
            SamplingError: no token is allowed.
        """
        weights, order = self.weights(logits, seen, written)
        if len(order) == 1:
            return int(order[0])
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.seed % (1 << 63))
        number = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        return int(order[_pick(weights, number)])

    def weights(self, logits: Tensor, seen: Iterable[int] = (), written: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """The tokens that may be drawn, [n], and their weights, float64 [n]; a weight may be zero."""
        row = logits.detach().to("cpu", torch.float64)
        if self.repetition_penalty != 1:
            row = self._penalized(row, seen)
        if self._counts and written:
            row = self._counted(row, written)
        if self.change is not None:
            row = self.change(row)
            if not math.isfinite(float(row.max())):
                raise SamplingError("no token is allowed")
        if not self.temperature:
            return torch.ones(1, dtype=torch.float64), row.argmax()[None]
        # Shifted before the division: a tiny temperature then gives -inf, not NaN.
        weights = ((row - row.max()) / self.temperature).exp()
        if self.top_p >= 1 and not self.top_k:
            return self._probable(weights), torch.arange(len(weights))
        best, order = weights.topk(min(self.top_k or _FIRST_SORTED, len(weights)))
        total = float(best.sum() if self.top_k else weights.sum())
        if float(best.sum()) < self.top_p * total:
            best, order = weights.sort(descending=True, stable=True)
        # A token stays if those before it do not reach top_p; the first one always stays.
        kept = int((best.cumsum(0) - best < self.top_p * total).sum())
        return self._probable(best[:kept]), order[:kept]

    def _penalized(self, row: Tensor, seen: Iterable[int]) -> Tensor:
        places = torch.tensor(sorted(set(seen)), dtype=torch.long)
        scores = row[places]
        changed = torch.where(scores < 0, scores * self.repetition_penalty, scores / self.repetition_penalty)
        return row.index_copy(0, places, changed)

    def _counted(self, row: Tensor, written: Collection[int]) -> Tensor:
        times = Counter(written)
        taken = [self.presence_penalty + self.frequency_penalty * n for n in times.values()]
        return row.index_add(0, torch.tensor(list(times)), -torch.tensor(taken, dtype=row.dtype))

    def _probable(self, weights: Tensor) -> Tensor:
        """Weights, scaled so that the largest is 1, without those that `min_p` removes."""
        return torch.where(weights < self.min_p, 0.0, weights)


def _pick(weights: Tensor, number: float) -> int:
    """The index at which the weights add up to the share `number` (0 <= number < 1) of their sum."""
    cumulative = weights.cumsum(0)
    place = int(torch.searchsorted(cumulative, number * float(cumulative[-1]), right=True))
    # Rounding can put the number at the very end, behind the last token that has weight.
    return min(place, int(weights.nonzero()[-1]))


def chosen(scores: Tensor, ids: Sequence[int]) -> Tensor:
    """The log-probability of each chosen token, [n]. `scores`: the logits it was chosen from, [n, vocabulary]."""
    return scores.gather(1, torch.tensor(ids, device=scores.device)[:, None])[:, 0]


def likeliest(logits: Tensor, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """The log-probability of a token, and the `count` likeliest tokens with theirs. `logits`: [vocabulary]."""
    scores = torch.log_softmax(logits.float(), 0)
    best = scores.topk(min(count, len(scores)))
    return float(scores[token]), list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def sample(
    logits: Tensor | None,
    largest: tuple[float, int],
    sampler: Sampler,
    seen: Iterable[int] = (),
    written: Collection[int] = (),
) -> int | SamplingError:
    """A token for one row, or what is wrong with its logits.

    Args:
        logits: [vocabulary], if the sampler asks for them.
        largest: the largest logit and its index; NaN if any logit is, as in `RowResult`.
        seen, written: as in `Sampler.draw`.
    """
    value, token = largest
    # The largest logit is infinite if one is, or if all are minus infinity.
    if not math.isfinite(value):
        return SamplingError(f"the logits are {'not a number' if math.isnan(value) else 'infinite'}")
    if sampler.asks == "largest":
        return token
    assert logits is not None
    try:
        return sampler.draw(logits, seen, written)
    except SamplingError as error:
        return error
