"""The Gate: decides whether a finished thought is injected into the River."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.profile import GateSettings

_HIGHEST = 0.9999  # of a calibrated score, so that a threshold of 1 lets nothing pass
_NEUTRAL = 0.5
_CENTRE, _SPREAD = 0.0, 1.0  # nats a token, for a model without a calibration
_NARROWEST = 0.05  # spread
_LEAST, _MOST = -4.0, 2.0  # nats: the bounds of what one token can count for

_REPEATS = 4  # a word, or some words, this often in a row make a thought garbled
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


class Gate:
    """Judges thoughts by how likely they are to the River, and how sure the Stream was.

    Modes:
        calibrated: how much more likely the thought is after the River than alone (see `gained`), mapped to 0..1:
            a thought that the River makes neither more nor less likely scores 0.5 on any model. A calibration
            centres the score on unrelated thoughts and scales it by their spread, so that a score is the share
            of them that lies below.
        raw: the cosine of the two last hidden states, as in the paper (arXiv 2601.01298). It is high for
            almost any thought.
        off: everything passes that the River can read.

    Garbled thoughts are rejected before they are scored.
    """

    def __init__(self, settings: GateSettings, calibration: Calibration | None = None) -> None:
        self.settings = settings
        self.passed = self.rejected = 0
        self._calibration = calibration

    @property
    def threshold(self) -> float:
        """The threshold of the settings, else of the model's calibration, else the default."""
        settings = self.settings
        if self._calibration and self.weighs and "threshold" not in settings.model_fields_set:
            return self._calibration.threshold
        return settings.threshold

    @property
    def weighs(self) -> bool:
        """Whether it needs to know how likely a thought is after the River and alone."""
        return self.settings.mode == "calibrated"

    def use(self, settings: GateSettings) -> None:
        """Changes mode and threshold."""
        self.settings = settings

    def score(self, gain: float) -> float:
        """The calibrated score, 0..1.

        Args:
            gain: of the thought by the River, nats a token.
        """
        centre, spread = _CENTRE, _SPREAD
        if self._calibration:
            centre, spread = self._calibration.centre, max(self._calibration.spread, _NARROWEST)
        return min(_HIGHEST, 0.5 * math.erfc((centre - gain) / (spread * math.sqrt(2))))

    def decide(
        self,
        thought: str,
        thought_hidden: Tensor,
        river_hidden: Tensor,
        gain: float | None = None,
        threshold: float | None = None,
        certainty: float = 1.0,
    ) -> GateDecision:
        """Judges one thought.

        Args:
            thought: its text.
            thought_hidden: hidden states of what the Stream wrote, the newest last, [n, hidden_size].
            river_hidden: the River's newest, [m, hidden_size].
            gain: as for `score`; None if it cannot be known, which is not held against the thought.
            threshold: used instead of the settings'.
            certainty: how sure the Stream was of what it wrote, 0..1.
        """
        decision = self._decide(thought, thought_hidden, river_hidden, gain, threshold, certainty)
        self.passed += decision.passed
        self.rejected += not decision.passed
        return decision

    def _decide(
        self,
        thought: str,
        thought_hidden: Tensor,
        river_hidden: Tensor,
        gain: float | None,
        threshold: float | None,
        certainty: float,
    ) -> GateDecision:
        mode = self.settings.mode
        limit = self.threshold if threshold is None else threshold

        def decision(passed: bool, score: float, reason: str) -> GateDecision:
            return GateDecision(passed, score, limit, mode, f"{reason} ({mode})")

        problem = _unreadable(thought, thought_hidden) or ("" if mode == "off" else garbled(thought))
        if problem:
            return decision(False, 0.0, problem)
        if mode == "off":
            return decision(True, 1.0, "not judged")
        if certainty < self.settings.certainty:
            return decision(False, 0.0, f"unsure: certainty {certainty:.2f} < {self.settings.certainty:.2f}")
        compared = raw_cosine(thought_hidden, river_hidden) if mode == "raw" else gain
        if compared is None or not math.isfinite(compared):
            return decision(limit < 1, _NEUTRAL, f"score {_NEUTRAL:.2f}: there is nothing to compare")
        score = compared if mode == "raw" else self.score(compared)
        passed = score >= limit
        digits = 2 if f"{score:.2f}" != f"{limit:.2f}" else 4
        return decision(passed, score, f"score {score:.{digits}f} {'>=' if passed else '<'} {limit:.{digits}f}")


def gained(likely: Tensor | None, by_itself: Tensor | None) -> float | None:
    """How much more likely a thought is after the River than alone, nats a token; None if either is not known.

    Pointwise mutual information (Church & Hanks 1990) with winsorized tokens: a name that the River expected does not
    make up for one that it did not.

    Args:
        likely, by_itself: log-probabilities of its tokens, [n].
    """
    if likely is None or by_itself is None:
        return None
    return float((likely - by_itself).clamp(_LEAST, _MOST).mean())


def raw_cosine(thought: Tensor, river: Tensor) -> float | None:
    """The cosine of the last states of [n, hidden_size] and [m, hidden_size]; None if either is empty."""
    if not len(thought) or not len(river):
        return None
    return float(torch.cosine_similarity(thought[-1].float(), river[-1].float(), dim=0))


def _unreadable(thought: str, hidden: Tensor) -> str:
    """Why the River must not read a thought even if the Gate is off; empty if it may."""
    if not thought.strip():
        return "the thought is empty"
    if not bool(torch.isfinite(hidden).all()):
        return "the thought's hidden states are not finite"
    return ""


def garbled(thought: str) -> str:
    """What is wrong with a thought's text; empty if nothing. Looks at 4,000 characters at most, in linear time."""
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
