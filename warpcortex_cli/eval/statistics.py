"""Intervals for shares and means."""

from __future__ import annotations

import math


def interval(right: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927)."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.96, right / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)  # rounding can leave the range by its last digit
