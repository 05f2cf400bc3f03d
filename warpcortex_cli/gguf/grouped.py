"""Quantized weights: levels in groups that share a scale, as GGUF files hold them and as the kernels take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

GROUP = 32  # the group size of the kernels and of most of GGUF's types


@dataclass(frozen=True)
class Grouped:
    """Weights `scale * level + minimum`: each `size` consecutive inputs of an output share a scale and a minimum.

    Attributes:
        levels: uint8 [outputs, inputs], below 2 ** bits.
        scales: fp32 [outputs, groups] with groups = ceil(inputs / size).
        minima: fp32 [outputs, groups], the weight at level 0; or None: the weight is `scale * (level - zero)`.
        bits: of a level, 4, 5, 6 or 8.
        size: inputs of a group; the last group of a row may be shorter.

    Raises:
        ValueError: shapes or types do not fit together, or a level has more bits.
    """

    levels: Tensor
    scales: Tensor
    minima: Tensor | None
    bits: int
    size: int = GROUP

    def __post_init__(self) -> None:
        outputs, inputs = self.levels.shape
        shape = (outputs, -(-inputs // self.size))
        if self.bits not in (4, 5, 6, 8) or self.levels.dtype != torch.uint8 or self.scales.shape != shape:
            raise ValueError(
                f"levels {tuple(self.levels.shape)} and scales {tuple(self.scales.shape)} are not of groups"
            )
        if self.minima is not None and self.minima.shape != shape:
            raise ValueError(f"minima {tuple(self.minima.shape)} are not {shape}")
        most = (1 << self.bits) - 1
        if self.bits < 8 and self.levels.numel() and int(self.levels.max()) > most:
            raise ValueError(f"a level of {self.bits} bits is above {most}")

    @property
    def zero(self) -> int:
        """The level of the weight 0 if there are no minima."""
        return 1 << (self.bits - 1)

    @classmethod
    def concatenated(cls, parts: Sequence[Grouped]) -> Grouped:
        """The outputs of several matrices, in this order, in the smallest form that holds all of them.

        Beside groups of another size, groups that are not of 32 are rounded to 8 bits.
        """
        if len(parts) == 1:
            return parts[0]
        if len({part.size for part in parts}) > 1:
            parts = [part if part.size == GROUP else rounded(part.weights()) for part in parts]
        if len({(part.bits, part.minima is None) for part in parts}) > 1:
            most = max(part.bits for part in parts)
            parts = [part.with_minima(8 if most > 5 else most) for part in parts]
        minima = [part.minima for part in parts if part.minima is not None]
        return cls(
            torch.cat([part.levels for part in parts]),
            torch.cat([part.scales for part in parts]),
            torch.cat(minima) if minima else None,
            parts[0].bits,
            parts[0].size,
        )

    def with_minima(self, bits: int = 4) -> Grouped:
        """The same weights with minima and in at least this many bits."""
        minima = self.scales * -self.zero if self.minima is None else self.minima
        return Grouped(self.levels, self.scales, minima, max(bits, self.bits), self.size)

    def weights(self) -> Tensor:
        """fp32 [outputs, inputs]"""
        outputs, inputs = self.levels.shape
        missing = self.scales.shape[1] * self.size - inputs
        levels = pad(self.levels, (0, missing)) if missing else self.levels
        values, scales = levels.reshape(outputs, -1, self.size).float(), self.scales.float()[..., None]
        if self.minima is None:
            values.sub_(self.zero).mul_(scales)
        else:
            values.mul_(scales).add_(self.minima.float()[..., None])
        return values.view(outputs, -1)[:, :inputs]


def rounded(weight: Tensor) -> Grouped:
    """Weights [outputs, inputs] in 8 bits without minima, rounded as the kernels round them."""
    outputs, inputs = weight.shape
    filled = torch.zeros(outputs, -(-inputs // GROUP) * GROUP)
    filled[:, :inputs] = weight.detach()
    groups = filled.view(outputs, -1, GROUP)
    scales = groups.abs().amax(2) / 127
    times = torch.exp2(torch.frexp(scales.amax(1, True)).exponent - 1.0)  # brings the largest of an output near 1
    scales = torch.where(scales > 0, (scales / times).half().float() * times, 0)
    by = torch.where(scales > 0, 1 / scales, 0)
    levels = (groups * by[:, :, None] + 128).round_().clamp_(0, 255).to(torch.uint8)
    return Grouped(levels.view(outputs, -1)[:, :inputs].contiguous(), scales, None, 8)
