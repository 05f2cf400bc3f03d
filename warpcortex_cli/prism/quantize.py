"""Weights in int8 for the CPU: a quarter of fp32's bytes to read, which is what decoding waits for.

Weights carry a scale for each output channel, activations one for each token, found anew in every step (as in
LLM.int8(), arXiv 2208.07339, without its outlier columns). A token's result therefore depends on no other row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from warpcortex_cli.errors import ModelError

_LEVELS = 127


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, columns] -> int8 of the same shape, and the scale of each row, fp32 [rows]."""
    scale = weight.detach().float().abs().amax(1).clamp_min_(1e-12) / _LEVELS
    rows = [(part.float() / s[:, None]).round_().to(torch.int8) for part, s in _in_parts(weight.detach(), scale)]
    return torch.cat(rows), scale


def _in_parts(weight: Tensor, scale: Tensor, rows: int = 16384) -> list[tuple[Tensor, Tensor]]:
    """Few rows at once: a whole vocabulary in fp32 would double the memory."""
    return list(zip(weight.split(rows), scale.split(rows), strict=True))


class Activations:
    """A layer's input in int8. The last one is kept: q, k and v are given the same tensor, and so are gate and up.

    Nothing in a forward changes a layer's input in place, so the same tensor has the same values.
    """

    def __init__(self) -> None:
        self._of: Tensor | None = None
        self._values = self._scale = torch.empty(0)

    def quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """int8 [tokens, in] and the scale of each token, fp32 [tokens, 1]."""
        if self._of is not x:
            rows = x.reshape(-1, x.shape[-1]).float()
            self._scale = torch.linalg.vector_norm(rows, torch.inf, 1, True).div_(_LEVELS).clamp_min_(1e-12)
            self._values = (rows / self._scale).round_().to(torch.int8)
            self._of = x
        return self._values, self._scale


class Int8Linear(nn.Module):
    """A linear layer over int8 weights [out, in]; takes and gives the type of its input."""

    def __init__(
        self, weight: nn.Parameter, scale: nn.Parameter, bias: Tensor | None, inputs: Activations | None = None
    ) -> None:
        super().__init__()
        self._inputs = inputs or Activations()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.scale = scale
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)

    @classmethod
    def of(cls, linear: nn.Linear, inputs: Activations | None = None) -> Int8Linear:
        return cls(*_parameters(linear.weight), linear.bias, inputs)

    def forward(self, x: Tensor) -> Tensor:
        values, scale = self._inputs.quantized(x)
        out = torch._int_mm(values, self.weight.t()).float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


class Int8Embedding(nn.Module):
    """Rows of int8 weights, shared with the head where the model ties them; keeps what the model's own one does."""

    def __init__(self, weight: nn.Parameter, scale: nn.Parameter, dtype: torch.dtype, own: nn.Embedding) -> None:
        super().__init__()
        self.weight = weight
        self.scale = scale
        self._dtype = dtype
        self._factor = getattr(own, "embed_scale", None)  # of Gemma
        self.num_embeddings, self.embedding_dim = weight.shape

    def forward(self, ids: Tensor) -> Tensor:
        rows = (self.weight[ids].float() * self.scale[ids][..., None]).to(self._dtype)
        return rows if self._factor is None else rows * self._factor.to(rows.dtype)


def _parameters(weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    values, scale = _quantized(weight)
    return nn.Parameter(values, requires_grad=False), nn.Parameter(scale, requires_grad=False)


def quantize_int8(model: PreTrainedModel) -> None:
    """Replaces every linear layer and the embedding, one at a time, so that little is held twice.

    Raises:
        ModelError: the model is not on the CPU.
    """
    if model.device.type != "cpu":
        raise ModelError(
            f"--quantize int8 is made for the CPU, and the model is on {model.device}.",
            "Add --device cpu, or leave --quantize out.",
        )
    dtype, inputs = model.dtype, Activations()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    if type(embedding).__name__.endswith("Embedding") and isinstance(embedding, nn.Embedding):
        pair = _parameters(embedding.weight)
        model.set_input_embeddings(Int8Embedding(*pair, dtype, embedding))
        if tied:
            model.set_output_embeddings(Int8Linear(*pair, head.bias, inputs))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear.of(child, inputs))
