"""Confidence intervals of shares, and relative errors."""

from __future__ import annotations

import math

from torch import Tensor


def interval(right: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.96, right / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)  # rounding can exceed the range in the last digit


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of `exact`, [heads, n, d], averaged over heads."""
    return float(((found - exact).norm(dim=(1, 2)) / exact.norm(dim=(1, 2))).mean())
