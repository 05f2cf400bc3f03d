"""Weights as whole numbers of few bits, as files of GGUF hold them and as kernels take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32  # inputs of an output that share a scale


@dataclass(frozen=True)
class Grouped:
    """Weights that are scale * level + minimum, by groups of 32 inputs of an output.

    Attributes:
        levels: uint8 [outputs, inputs], below 2 ** bits.
        scales: fp32 [outputs, ceil(inputs / 32)].
        minima: of the same shape, what level 0 is worth. Or None: then 2 ** (bits - 1) is the level of the weight 0.
        bits: 4 or 8, what a level takes in memory; those of 5 and 6 bits are held in 8.
    """

    levels: Tensor
    scales: Tensor
    minima: Tensor | None
    bits: int

    def __post_init__(self) -> None:
        outputs, inputs = self.levels.shape
        shape = (outputs, -(-inputs // GROUP))
        if self.bits not in (4, 8) or self.levels.dtype != torch.uint8 or self.scales.shape != shape:
            raise ValueError(
                f"levels {tuple(self.levels.shape)} and scales {tuple(self.scales.shape)} are not of groups"
            )
        if self.minima is not None and self.minima.shape != shape:
            raise ValueError(f"minima {tuple(self.minima.shape)} are not {shape}")
        if self.bits == 4 and self.levels.numel() and int(self.levels.max()) > 15:
            raise ValueError("a level of 4 bits is above 15")

    @property
    def zero(self) -> int:
        """The level of the weight 0 where there are no minima."""
        return 1 << (self.bits - 1)

    @classmethod
    def together(cls, parts: Sequence[Grouped]) -> Grouped:
        """The outputs of several matrices, in this order, as one: in the least form that holds all of them."""
        if len(parts) == 1:
            return parts[0]
        if len({(part.bits, part.minima is None) for part in parts}) > 1:
            most = max(part.bits for part in parts)
            parts = [part.with_minima(most) for part in parts]
        minima = [part.minima for part in parts if part.minima is not None]
        return cls(
            torch.cat([part.levels for part in parts]),
            torch.cat([part.scales for part in parts]),
            torch.cat(minima) if minima else None,
            parts[0].bits,
        )

    def with_minima(self, bits: int = 4) -> Grouped:
        """The same weights in a form that all take: with minima, and in at least so many bits."""
        minima = self.scales * -self.zero if self.minima is None else self.minima
        return Grouped(self.levels, self.scales, minima, max(bits, self.bits))

    def weights(self) -> Tensor:
        """fp32 [outputs, inputs]"""
        inputs = self.levels.shape[1]
        scales, minima = (
            None if x is None else x.float().repeat_interleave(GROUP, 1)[:, :inputs] for x in (self.scales, self.minima)
        )
        assert scales is not None
        return (self.levels.float() - self.zero) * scales if minima is None else self.levels.float() * scales + minima


def rounded(weight: Tensor) -> Grouped:
    """Weights [outputs, inputs] in 8 bits, without minima: as the kernels round them."""
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
