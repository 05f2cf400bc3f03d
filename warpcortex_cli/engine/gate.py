"""The Gate: whether a finished thought is let into the River."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.profile import GateSettings

WINDOW = 16  # tokens whose mean hidden state stands for a place in the River
_KEPT_WINDOWS = 128  # every other one is dropped when there are more: they stay evenly spread over all of it
_KEPT_THOUGHTS = 32
_APART = 2 * WINDOW  # tokens between a window and what counts as unrelated to it
_ENOUGH_WINDOWS = 6
_TOKENS_BEFORE = 128  # that a calibration counts as
_HIGHEST = 0.9999  # of a calibrated score, so that a threshold of 1 lets nothing pass
_NARROWEST = 0.05  # spread of null cosines; a repetitive River would make it 0
_NEUTRAL = 0.5
_RIVER_BROKEN = "the River's hidden states are not finite"

_REPEATS = 4  # times in a row that a word, or some words, make a thought garbled
_NUMERIC_REPEATS = 8  # "5 + 5 + 5 + 5" is arithmetic
_LONGEST_PHRASE = 8
_LOOKED_AT = 4000  # characters
_STUTTER = re.compile(r"([^\W\d_])\1{5}|([^\W\d_]{2,8}?)\2{3}")


@dataclass(frozen=True)
class GateDecision:
    """What the Gate decided, and why.

    Attributes:
        score: how well the thought fits; 0..1 except in mode `raw`, where it is a cosine. 0 for a garbled
            thought and for one that its Stream was not sure of.
        threshold: what it was compared with.
        mode: of the Gate.
        reason: for people, such as "score 0.81 >= 0.50 (calibrated)".
    """

    passed: bool
    score: float
    threshold: float
    mode: str
    reason: str


class Signal(NamedTuple):
    """A score, or `lacking`: what is missing for one, which is never held against a thought."""

    score: float
    lacking: str = ""


class Gate:
    """Judges thoughts by the hidden states of Stream and River.

    Modes:
        calibrated: the cosine of mean hidden states, centred by the River's running mean and divided by its
            running deviation per dimension. The score is the share of unrelated pairs (places of the River
            far from each other, earlier thoughts and places far from theirs) whose cosine lies below, under a
            normal distribution: 0.5 is what nothing at all scores on any model.
        raw: the cosine of the two last hidden states, as in the paper (arXiv 2601.01298). It is high for
            anything.
        off: everything passes that the River could bear to read.

    Garbled thoughts never get to a score. As long as there is too little to calibrate with, and no calibration of the
    model, a thought passes with a neutral 0.5, unless the threshold is 1.
    """

    def __init__(self, settings: GateSettings, calibration: Calibration | None = None) -> None:
        self.settings = settings
        self.states = RiverStates(calibration)
        self._calibration = calibration
        self.passed = self.rejected = 0
        self._signals: dict[str, Callable[[Tensor, Tensor], Signal]] = {
            "calibrated": self.states.score,
            "raw": raw_cosine,
        }

    @property
    def threshold(self) -> float:
        """The one that was set, else that of the model's calibration, else the default."""
        settings = self.settings
        if self._calibration and settings.mode == "calibrated" and "threshold" not in settings.model_fields_set:
            return self._calibration.threshold
        return settings.threshold

    def use(self, settings: GateSettings) -> None:
        """Changes mode and threshold; what was observed stays."""
        self.settings = settings

    def observe(self, hidden: Tensor) -> None:
        """Takes in the River's newest hidden states [tokens, hidden_size], in order, each once."""
        self.states.observe(hidden)

    def decide(
        self,
        thought: str,
        thought_hidden: Tensor,
        river_hidden: Tensor,
        threshold: float | None = None,
        certainty: float = 1.0,
    ) -> GateDecision:
        """Judges one thought; it then counts among the earlier ones.

        Args:
            thought: its text.
            thought_hidden: hidden states of what the Stream wrote, [n, hidden_size].
            river_hidden: the River's newest, [m, hidden_size].
            threshold: in the place of the settings'.
            certainty: of the Stream about what it wrote, 0..1.
        """
        mode = self.settings.mode
        limit = self.threshold if threshold is None else threshold

        def decision(passed: bool, score: float, reason: str) -> GateDecision:
            self.passed += passed
            self.rejected += not passed
            return GateDecision(passed, score, limit, mode, f"{reason} ({mode})")

        problem = _unreadable(thought, thought_hidden) or ("" if mode == "off" else garbled(thought))
        if problem:
            return decision(False, 0.0, problem)
        if mode == "off":
            return decision(True, 1.0, "not judged")
        if certainty < self.settings.certainty:
            return decision(False, 0.0, f"unsure: certainty {certainty:.2f} < {self.settings.certainty:.2f}")
        signal = self._signals[mode](thought_hidden.float(), river_hidden.float())
        self.states.remember(thought_hidden)
        if signal.lacking:
            # Lack of data is no fault of the thought.
            return decision(limit < 1, _NEUTRAL, f"score {_NEUTRAL:.2f}: {signal.lacking}")
        passed = signal.score >= limit
        digits = 2 if f"{signal.score:.2f}" != f"{limit:.2f}" else 4
        sign = ">=" if passed else "<"
        return decision(passed, signal.score, f"score {signal.score:.{digits}f} {sign} {limit:.{digits}f}")


def raw_cosine(thought: Tensor, river: Tensor) -> Signal:
    """The cosine of the last states of [n, hidden_size] and [m, hidden_size]."""
    if not len(thought) or not len(river):
        return Signal(_NEUTRAL, "no hidden states to compare")
    cosine = float(torch.cosine_similarity(thought[-1], river[-1], dim=0))
    return Signal(cosine) if math.isfinite(cosine) else Signal(_NEUTRAL, _RIVER_BROKEN)


class RiverStates:
    """What hidden states of this River look like: mean, spread, and how alike unrelated ones are.

    Args:
        before: what they are like in general; it counts as much as some tokens, and stands in for what is not known.
    """

    def __init__(self, before: Calibration | None = None) -> None:
        self.tokens = 0
        self._before = before
        self._mean: Tensor | None = None  # [hidden_size]
        self._squares: Tensor | None = None  # summed squared deviations, [hidden_size]
        self._weight = 0  # tokens that both stand for
        self._open: Tensor | None = None  # states of the window that is not full yet
        self._windows: list[tuple[int, Tensor]] = []  # (token it ends at, mean state)
        self._stride = 1
        self._full = 0
        self._thoughts: deque[tuple[int, Tensor]] = deque(maxlen=_KEPT_THOUGHTS)

    def observe(self, hidden: Tensor) -> None:
        """Adds states [tokens, hidden_size]; those that are not finite are left out."""
        states = hidden.float()
        states = states[torch.isfinite(states).all(1)]
        if not len(states):
            return
        self._add_moments(states)
        waiting = states if self._open is None else torch.cat([self._open, states])
        before = self.tokens - (len(waiting) - len(states))
        count = len(waiting) // WINDOW
        for i, mean in enumerate(waiting[: count * WINDOW].view(count, WINDOW, states.shape[1]).mean(1)):
            self._add_window(before + (i + 1) * WINDOW, mean)
        self._open = waiting[count * WINDOW :].clone()
        self.tokens += len(states)

    def remember(self, thought_hidden: Tensor) -> None:
        """Counts a judged thought [n, hidden_size] among the earlier ones, at the River's present place."""
        if len(thought_hidden):
            self._thoughts.append((self.tokens, thought_hidden.float().mean(0)))

    @property
    def enough(self) -> bool:
        """Whether this River alone says how alike unrelated states are."""
        return len(self._windows) >= _ENOUGH_WINDOWS

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance per dimension, each [hidden_size]; at least one token was observed."""
        assert self._mean is not None and self._squares is not None
        return self._mean, self._squares / self._weight

    def score(self, thought: Tensor, river: Tensor) -> Signal:
        """The share of unrelated pairs less alike than a thought [n, hidden_size] and the River [m, ...]."""
        if not len(thought) or not len(river):
            return Signal(_NEUTRAL, "no hidden states to compare")
        if self.enough:
            null = self.null_cosines()
            usual, spread = float(null.mean()), float(null.std())
        elif self._before is not None and self.tokens:
            usual, spread = self._before.null_mean, self._before.null_spread
        else:
            needed = _ENOUGH_WINDOWS * WINDOW
            return Signal(_NEUTRAL, f"{self.tokens} River tokens seen of the {needed} needed")
        pair = self._directions(torch.stack([thought.mean(0), river.mean(0)]))
        cosine = float(pair[0] @ pair[1])
        if not math.isfinite(cosine):
            return Signal(_NEUTRAL, _RIVER_BROKEN)
        deviations = (cosine - usual) / max(spread, _NARROWEST)
        return Signal(min(_HIGHEST, 0.5 * math.erfc(-deviations / math.sqrt(2))))

    def null_cosines(self) -> Tensor:
        """Cosines of all unrelated pairs that are remembered, [pairs]; taken anew, since the centre moves."""
        ends = torch.tensor([end for end, _ in self._windows])
        windows = self._directions(torch.stack([mean for _, mean in self._windows]))
        cosines = windows @ windows.T
        apart = (ends[:, None] - ends >= _APART).to(cosines.device)
        null = cosines[apart]
        if self._thoughts:
            times = torch.tensor([time for time, _ in self._thoughts])
            thoughts = self._directions(torch.stack([mean for _, mean in self._thoughts]))
            apart = ((times[:, None] - ends).abs() > 2 * _APART).to(cosines.device)
            null = torch.cat([null, (thoughts @ windows.T)[apart]])
        return null

    def _directions(self, states: Tensor) -> Tensor:
        """States [n, hidden_size], centred, whitened by dimension, of length 1."""
        centre, variance = self.moments()
        # A dimension that hardly moves must not be blown up into the loudest one.
        spread = (variance + 1e-2 * variance.mean() + 1e-12).sqrt()
        return torch.nn.functional.normalize((states.to(centre.device) - centre) / spread, dim=1)

    def _add_moments(self, states: Tensor) -> None:
        """Chan's update of mean and squared deviations, exact for chunks of any size."""
        count, mean = len(states), states.mean(0)
        squares = (states - mean).square().sum(0)
        if self._mean is None or self._squares is None:
            self._mean, self._squares, self._weight = mean, squares, count
            if self._before is None:
                return
            # As if so many tokens had been observed already.
            self._mean, variance = (t.to(mean.device) for t in (self._before.mean, self._before.variance))
            self._squares, self._weight = variance * _TOKENS_BEFORE, _TOKENS_BEFORE
        total = self._weight + count
        delta = mean - self._mean
        self._squares = self._squares + squares + delta.square() * (self._weight * count / total)
        self._mean = self._mean + delta * (count / total)
        self._weight = total

    def _add_window(self, end: int, mean: Tensor) -> None:
        self._full += 1
        if (self._full - 1) % self._stride == 0:
            self._windows.append((end, mean.clone()))
        if len(self._windows) > _KEPT_WINDOWS:
            self._windows = self._windows[::2]
            self._stride *= 2


def _unreadable(thought: str, hidden: Tensor) -> str:
    """Why the River must not read a thought even with the Gate off; empty if it may."""
    if not thought.strip():
        return "the thought is empty"
    if not bool(torch.isfinite(hidden).all()):
        return "the thought's hidden states are not finite"
    return ""


def garbled(thought: str) -> str:
    """What is wrong with a thought's text, or nothing. Looks at 4,000 characters at most, in linear time."""
    text = thought[:_LOOKED_AT]
    if "\ufffd" in text:
        return "garbled: it holds broken characters"
    if not any(c.isalnum() for c in text):
        return "garbled: no letter or digit"
    stutter = _STUTTER.search(text)
    if stutter:
        return f"garbled: it repeats {(stutter[1] or stutter[2])!r}"
    words = text.lower().split()
    for size in range(1, _LONGEST_PHRASE + 1):
        run = 0
        for i in range(size, len(words)):
            run = run + 1 if words[i] == words[i - size] else 0
            if run < size * (_REPEATS - 1):
                continue
            phrase = " ".join(words[i - size + 1 : i + 1])
            spoken = size == 1 or any(c.isalpha() for c in phrase)
            if spoken or run >= size * (_NUMERIC_REPEATS - 1):
                return f"garbled: it repeats {phrase!r}"
    return ""
