"""Pacing: how many Stream tokens may join a step so that the River keeps its share of its own speed.

The cost of a step is learnt while it runs. Each River token adds the time that the share leaves over to a budget;
Streams spend it in steps of the width that gives the most Stream tokens a second. A few tokens cost almost nothing if a
step waits for the weights, so every width is tried now and then. While the River waits, Streams have every step.

A machine's speed varies from step to step. Streams are charged the mean time of their steps beyond the mean of the
River's solo steps, so they do not pay for what slows down the River alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

_NEWEST = 0.2  # weight of a width's newest measurement
_SOLO = 0.05  # the same for solo steps, of which there are many; the first ones have equal weight
_SELDOM = 32  # steps with Streams after which a solo step refreshes the River's own speed
_TRIES = 8  # one in so many steps with Streams tries the width that was tried longest ago,
_TRIED = 1 / 16  # as long as tries take no more than this part of what Streams spent
_FRESH = 400  # steps after which the cost of an unused width is forgotten: it may just have been unlucky
_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_KNOWN = 3  # solo steps before the first one with Streams; the fastest counts, as the first may load something
_FIRST = 4  # the widest step before any is measured
_BURST = 2.0  # a width that takes longer by so many solo steps is not chosen, or the River would stutter


SHARE = 0.7  # of its own speed: what a River keeps while somebody reads along,
READING = 12.0  # or so many tokens a second, if that is less: some nine words, twice as fast as most people read


class Pacer:
    """Learns how long a step takes by the number of Stream tokens in it (its width), and grants widths.

    Args:
        share: the part of its solo speed that the River keeps, 0 (no promise) to below 1.
        enough: tokens a second above which the River needs no more speed.
    """

    def __init__(self, share: float, enough: float = math.inf) -> None:
        self.share = share
        self.enough = enough
        self._solo: float | None = None  # mean seconds of a step in which the River is alone,
        self._own: float | None = None  # and of what is done besides such a step
        self._solos = self._since = 0  # how many solo steps, and how many steps with Streams since the last of them
        self._extra: dict[int, float] = {}  # by width: mean seconds beyond a solo step
        self._taken: dict[int, int] = {}  # by width: the last step of that width
        self._steps = self._wide = 0
        self._trying = False  # whether the next step is a try
        self._spent = self._tried = 0.0  # seconds beyond solo steps: in all steps with Streams, and in tries
        self._credit = 0.0

    def width(self, wanted: int, river_writes: bool) -> int:
        """How many of `wanted` Stream tokens may join the next step."""
        if wanted <= 0 or not river_writes or self.share <= 0:
            return wanted
        if self._solos < _KNOWN or self._solo is None or self._credit < 0 or self._since >= _SELDOM:
            return 0
        widest = min(wanted, 2 * max(self._extra) if self._extra else _FIRST)
        options = [w for w in _WIDTHS if w < widest] + [widest]
        burst = self._most()
        fitting = [w for w in options if self._cost(w) <= burst]
        allowed = self._allowed()
        self._trying = bool(fitting) and self._wide % _TRIES == 0 and self._tried <= _TRIED * self._spent
        if self._trying:
            return min(fitting, key=lambda w: self._taken.get(_bucket(w), -1))
        # Stream tokens per River token: a width that costs more than is allowed runs in only some of the steps.
        return max(fitting, key=lambda w: (round(w * min(1.0, allowed / self._cost(w)), 6), w)) if fitting else 1

    def observe(self, width: int, seconds: float, river_writes: bool, besides: float = 0.0) -> None:
        """Notes the seconds of a forward with `width` Stream tokens, and those spent `besides` it in the same step."""
        if not river_writes:
            self._since = 0  # while the River reads, there are no solo steps to wait for
            return
        self._steps += 1
        if width == 0:
            self._solos += 1
            self._since = 0
            solo = seconds if self._solo is None else self._solo
            mean = solo + max(_SOLO, 1 / self._solos) * (seconds - solo)
            self._solo = mean if self._solos > _KNOWN else min(solo, seconds)
            own = besides if self._own is None else self._own
            least = min(besides, own * (2 if self._solos > _KNOWN else 1))  # what takes longer is done for Streams
            self._own = own + max(_SOLO, 1 / self._solos) * (least - own)
        if self._solo is None or self._own is None:
            return
        extra = 0.0
        if width:
            self._wide += 1
            self._since += 1
            extra = seconds - self._solo  # may be negative: only the mean over all is the cost of a width
            self._learn(_bucket(width), extra)
        for old in [w for w, step in self._taken.items() if self._steps - step > _FRESH]:
            del self._extra[old], self._taken[old]
        if self.share > 0:
            # The budget is bounded, so that a long solo stretch does not buy a long disturbed one.
            self._credit = min(self._most(), self._credit + self._allowed() - extra - (besides - self._own))

    def _learn(self, place: int, extra: float) -> None:
        """Notes how much longer a step with Streams took than a solo one."""
        known = self._extra.get(place, extra)
        self._extra[place] = known + _NEWEST * (extra - known)
        self._taken[place] = self._steps
        self._spent += max(0.0, extra)
        self._tried += max(0.0, extra) if self._trying else 0.0

    def _allowed(self) -> float:
        """Seconds that each River token leaves to the Streams."""
        assert self._solo is not None
        return max(self._solo * (1 / self.share - 1), 1 / self.enough - self._solo)

    def _most(self) -> float:
        """Seconds that a step may take beyond a solo one."""
        assert self._solo is not None
        return max(_BURST * self._solo, 1 / self.enough - self._solo)

    def _cost(self, width: int) -> float:
        """Seconds beyond a solo step, from the nearest width that was tried; always above 0."""
        assert self._solo is not None
        floor = 1e-3 * self._solo
        if not self._extra:
            return floor
        # An untried width costs, per token, what the nearest measured one costs.
        nearest = min(self._extra, key=lambda w: abs(w - width))
        return max(floor, self._extra[nearest] * width / nearest)


class Promise(NamedTuple):
    """What a River is promised: the profile's `limits.river_share`, and whether somebody reads along."""

    share: float | None
    watched: bool


def pacer(share: float | None, watched: bool) -> Pacer:
    """A pacer that keeps a `Promise`. Without a share it promises what a reader needs, or nothing if nobody reads."""
    if share is not None:
        return Pacer(share)
    return Pacer(SHARE, READING) if watched else Pacer(0.0)


def _bucket(width: int) -> int:
    return next((w for w in _WIDTHS if w >= width), _WIDTHS[-1])
