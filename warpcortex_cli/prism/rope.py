"""Moving keys to other positions with the model's own rotary embedding."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Rope:
    """Turns keys by a number of positions, layer by layer.

    A rotation by a then by b is one by a + b, so keys that stand at p move to p + b by a turn of b, and to
    position 0 (unrotated) by a turn of -p. The scaling that some embeddings (YaRN) multiply into cosine and
    sine is in the keys already and left alone.

    Args:
        decoder: the base model, which holds `rotary_emb`.
        layer_types: the kind of each layer where the embedding differs by kind (Gemma 3), else None for each.

    Raises:
        LookupError: the model has no rotary embedding of transformers' usual form.
    """

    def __init__(self, decoder: nn.Module, layer_types: Sequence[str]) -> None:
        rotary = getattr(decoder, "rotary_emb", None)
        apply = getattr(sys.modules[type(decoder).__module__], "apply_rotary_pos_emb", None)
        if rotary is None or apply is None:
            raise LookupError("its positions are not rotary")
        self._rotary: Any = rotary
        self._apply: Callable[..., tuple[Tensor, Tensor]] = apply
        kinds = rotary.rope_type if isinstance(getattr(rotary, "rope_type", None), dict) else None
        self._kinds: list[str | None] = [t if kinds is not None else None for t in layer_types]
        self.rotated = [kinds is None or t in kinds for t in layer_types]

    def leave(self, layer: int) -> None:
        """Marks a layer whose keys carry no position (NoPE)."""
        self.rotated[layer] = False

    def turn(self, keys: Sequence[Tensor], by: Tensor) -> list[Tensor]:
        """Keys of all layers, moved.

        Args:
            keys: per layer [kv_heads, tokens, head_dim], rotated.
            by: positions to move by, [tokens] or [layers, kv_heads, tokens].
        """
        return list(self._turning(keys, by))

    def _turning(self, keys: Iterable[Tensor], by: Tensor) -> Iterator[Tensor]:
        """As `turn`, a layer at a time."""
        angles: dict[str | None, tuple[Tensor, Tensor]] = {}
        for layer, key in enumerate(keys):
            kind = self._kinds[layer]
            if not self.rotated[layer]:
                yield key
                continue
            if by.dim() == 3:
                cos, sin = self._angles(by[layer], kind)
            else:
                if kind not in angles:
                    angles[kind] = self._angles(by[None], kind)
                cos, sin = angles[kind]
            yield self._turn(key, cos, sin)

    def unrotated(self, keys: Sequence[Tensor], positions: Tensor) -> list[Tensor]:
        """Keys of all layers as they were before their positions were applied; shapes as in `turn`."""
        return self.turn(keys, -positions)

    def unrotating(self, keys: Iterable[Tensor], positions: Tensor) -> Iterator[Tensor]:
        """As `unrotated`, a layer at a time: of a long context all of them take much memory."""
        return self._turning(keys, -positions)

    def unrotated_layer(self, layer: int, key: Tensor, positions: Tensor) -> Tensor:
        """As `unrotated`, of one layer: key [kv_heads, tokens, head_dim], positions [tokens] or [kv_heads, tokens]."""
        if not self.rotated[layer]:
            return key
        by = -positions if positions.dim() == 2 else -positions[None]
        return self._turn(key, *self._angles(by, self._kinds[layer]))

    def _angles(self, by: Tensor, kind: str | None) -> tuple[Tensor, Tensor]:
        """Cosine and sine [1 or kv_heads, tokens, rotary dims] in fp32."""
        like = torch.zeros(1, device=by.device)
        with torch.inference_mode():
            cos, sin = self._rotary(like, by) if kind is None else self._rotary(like, by, kind)
        scale = getattr(self._rotary, "attention_scaling" if kind is None else f"{kind}_attention_scaling", 1.0)
        return cos / scale, sin / scale

    def _turn(self, key: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """key [kv_heads, tokens, head_dim]; heads stand where transformers expects the batch."""
        dims = cos.shape[-1]  # some embeddings turn only the first dimensions of a head
        part = key[:, None, :, :dims].float()
        # The function turns queries and keys; no heads of keys are given, so that nothing is turned twice.
        moved = self._apply(part, part[:, :0], cos, sin)[0][:, 0].to(key.dtype)
        return moved if dims == key.shape[-1] else torch.cat([moved, key[..., dims:]], -1)
