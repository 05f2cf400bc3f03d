"""A whole decoder in one call: embedding, all layers and the last norm, without the model's own Python code.

In a small model that code took a fifth of a step. Used for models whose layers all run as kernels and share their
angles, if a trial gave the same output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from warpcortex_cli.prism.attention import Angles
from warpcortex_cli.prism.fused import FusedLayer, norm_of
from warpcortex_cli.prism.step import PackedStep

_FIRST, _LAST = 1024, 1 << 14  # positions with cached angles, at first and at most; others are computed each time


class Stack:
    """The decoder of a model.

    Raises:
        AttributeError, LookupError, RuntimeError, TypeError: the decoder has another form.
    """

    def __init__(self, decoder: Any) -> None:
        layers = list(decoder.layers)
        if not layers or not all(isinstance(layer, FusedLayer) for layer in layers):
            raise LookupError("not all of its layers are kernels")
        self._first: FusedLayer = layers[0]
        self._layers = len(layers)
        self._embed: nn.Module = decoder.get_input_embeddings()
        self._rotary: Any = decoder.rotary_emb
        self._norm = norm_of(decoder.norm, len(layers[0].kernels.parts.first.weight))
        self._kept: Angles = self._angles(torch.arange(_FIRST))

    def run(self, step: PackedStep, tokens: Tensor, positions: Tensor) -> Tensor | None:
        """Hidden states [T, hidden_size] after the last norm; None if the layers must run one by one.

        Args:
            tokens, positions: int64 [T].
        """
        together = self._first.together
        if together is None or together[0].count != self._layers:
            return None
        hidden: Tensor = self._embed(tokens)
        if hidden.dtype != torch.float32:  # such hidden states must be rounded between layers
            return None
        found = step.through(*together, self.angles(positions), hidden)
        weight = self._norm.weight
        return None if found is None else nn.functional.rms_norm(found, weight.shape, weight, self._norm.epsilon)

    def angles(self, positions: Tensor) -> Angles:
        """Cosines and sines [T, rotary dims] of positions [T]."""
        end = int(positions.max()) + 1
        if end > _LAST:
            return self._angles(positions)
        if end > len(self._kept[0]):
            self._kept = self._angles(torch.arange(min(2 * end, _LAST)))
        return self._kept[0][positions], self._kept[1][positions]

    def _angles(self, positions: Tensor) -> Angles:
        with torch.inference_mode():
            cosine, sine = self._rotary(torch.zeros(1), positions[None])
        return cosine[0].float(), sine[0].float()
