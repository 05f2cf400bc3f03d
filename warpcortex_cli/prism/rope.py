"""Moves keys to other positions with the model's own rotary embedding."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

_PART = 1 << 16  # numbers rotated at once, so that copies stay in the CPU's cache and the allocator's


def unknown_rope(config: Any) -> str | None:
    """The first rope_type of a model's config that transformers does not know, or None."""
    settings = getattr(config, "rope_parameters", None) or {}
    for each in [settings, *(v for v in settings.values() if isinstance(v, dict))]:
        kind = each.get("rope_type", each.get("type"))
        if kind is not None and kind not in ("default", *ROPE_INIT_FUNCTIONS):
            return str(kind)
    return None


class Rope:
    """Rotates keys by a number of positions, layer by layer.

    A rotation by a and then by b is one by a + b. So keys at position p move to p + b by a rotation of b, and to
    position 0 (unrotated) by one of -p. The factor that some embeddings (YaRN) put into cosine and sine is in the
    keys already and is not applied again.

    Args:
        decoder: the base model, which holds `rotary_emb`.
        layer_types: the kind of each layer; the embedding may differ by kind (Gemma 3).

    Raises:
        LookupError: the model has no rotary embedding in transformers' usual form.
    """

    def __init__(self, decoder: nn.Module, layer_types: Sequence[str]) -> None:
        rotary = getattr(decoder, "rotary_emb", None)
        apply = getattr(sys.modules[type(decoder).__module__], "apply_rotary_pos_emb", None)
        if rotary is None or apply is None:
            raise LookupError("its positions are not rotary")
        self._rotary: Any = rotary
        self._apply: Callable[..., tuple[Tensor, Tensor]] = apply
        kinds = rotary.rope_type if isinstance(getattr(rotary, "rope_type", None), dict) else None
        self.kinds: list[str | None] = [t if kinds is not None else None for t in layer_types]
        self.rotated = [kinds is None or t in kinds for t in layer_types]

    def leave(self, layer: int) -> None:
        """Marks a layer whose keys carry no position (NoPE)."""
        self.rotated[layer] = False

    def turn(self, keys: Sequence[Tensor], by: Tensor) -> list[Tensor]:
        """Moves the keys of all layers.

        Args:
            keys: per layer [kv_heads, tokens, head_dim], rotated.
            by: positions to move by, [tokens] or [layers, kv_heads, tokens].
        """
        if by.dim() == 3:
            return [self.turning(by[layer])(layer, key) for layer, key in enumerate(keys)]
        turned = self.turning(by)
        return [turned(layer, key) for layer, key in enumerate(keys)]

    def unrotated(self, keys: Sequence[Tensor], positions: Tensor) -> list[Tensor]:
        """Keys of all layers without their rotation; shapes as in `turn`."""
        return self.turn(keys, -positions)

    def turning(self, by: Tensor) -> Turn:
        """Moves keys by [tokens] or [kv_heads, tokens] positions, one layer at a time."""
        return Turn(self, by)

    def angles(self, by: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's cosine and sine, [1 or kv_heads, tokens, rotary dims] in fp32; `by`: [1 or kv_heads, tokens]."""
        kind = self.kinds[layer]
        like = torch.zeros(1, device=by.device)
        with torch.inference_mode():
            cos, sin = self._rotary(like, by) if kind is None else self._rotary(like, by, kind)
        scale = getattr(self._rotary, "attention_scaling" if kind is None else f"{kind}_attention_scaling", 1.0)
        return cos / scale, sin / scale

    def apply(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Keys [kv_heads, tokens, rotary dims], rotated, in fp32."""
        part = keys[:, None].float()  # heads take the place of the batch
        # The function rotates queries and keys. It gets no key heads, so that nothing is rotated twice.
        return self._apply(part, part[:, :0], cos, sin)[0][:, 0]


class Turn:
    """Moves the keys of some tokens, layer by layer; a long context in parts that stay in the CPU's cache.

    Args:
        rope: the model's.
        by: positions to move by, [tokens] or [kv_heads, tokens].
    """

    def __init__(self, rope: Rope, by: Tensor) -> None:
        self._rope, self._by = rope, by if by.dim() == 2 else by[None]
        self._parts: dict[str | None, list[tuple[slice, Tensor, Tensor]]] = {}

    def __call__(self, layer: int, key: Tensor, out: Tensor | None = None) -> Tensor:
        """A layer's keys [kv_heads, tokens, head_dim], moved: into `out`, of any type, or of their own type."""
        rope = self._rope
        if not rope.rotated[layer]:
            return key if out is None else out.copy_(key)
        kind = rope.kinds[layer]
        if kind not in self._parts:
            step = max(1, _PART // (key.shape[0] * key.shape[2]))
            parts = [slice(start, start + step) for start in range(0, self._by.shape[1], step)]
            self._parts[kind] = [(part, *rope.angles(self._by[:, part], layer)) for part in parts]
        out = torch.empty_like(key) if out is None else out
        for part, cos, sin in self._parts[kind]:
            dims = cos.shape[2]
            out[:, part, :dims] = rope.apply(key[:, part, :dims], cos, sin)
            if dims < key.shape[2]:  # some embeddings rotate only the first dimensions of a head
                out[:, part, dims:] = key[:, part, dims:]
        return out
