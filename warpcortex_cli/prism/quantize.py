"""Weights in int8 for the CPU: a quarter of fp32's bytes to read, which is what decoding waits for.

Weights carry a scale for each output channel, activations one for each token, found anew in every step (as in
LLM.int8(), arXiv 2208.07339, without its outlier columns). A token's result therefore depends on no other row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from warpcortex_cli.errors import ModelError

_LEVELS = 127
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # given the same input, in this order
_ZERO = 128  # activations are unsigned, as the instructions for packed weights want one side


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, columns] -> int8 of the same shape, and the scale of each row, fp32 [rows]."""
    scale = weight.detach().float().abs().amax(1).clamp_min_(1e-12) / _LEVELS
    rows = [(part.float() / s[:, None]).round_().to(torch.int8) for part, s in _in_parts(weight.detach(), scale)]
    return torch.cat(rows), scale


def _in_parts(weight: Tensor, scale: Tensor, rows: int = 16384) -> list[tuple[Tensor, Tensor]]:
    """Few rows at once: a whole vocabulary in fp32 would double the memory."""
    return list(zip(weight.split(rows), scale.split(rows), strict=True))


def _activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [..., in] -> uint8 [tokens, in] with zero at 128, and the scale of each token, fp32 [tokens, 1]."""
    rows = x.reshape(-1, x.shape[-1]).float()
    scale = rows.abs().amax(1, True).div_(_LEVELS).clamp_min_(1e-12)
    # To int8 and then its sign bit turned over: torch converts to uint8 much slower.
    signed = (rows / scale).round_().to(torch.int8)
    return signed.bitwise_xor_(-_ZERO).view(torch.uint8), scale


def packs() -> bool:
    """Whether this CPU multiplies packed int8 weights exactly: without VNNI the products of pairs may overflow."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported())


class Int8Weight(nn.Module):
    """int8 [out, in] as it was quantized, multiplied by `torch._int_mm`: for a CPU that does not pack."""

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """uint8 [tokens, in], zero at 128 -> fp32 [tokens, out], the tokens' scales not applied."""
        signed = x.view(torch.int8).bitwise_xor(-_ZERO)
        return torch._int_mm(signed, self.values.t()).float().mul_(self.scale)


class PackedWeight(nn.Module):
    """The same in the blocks that oneDNN multiplies in: much faster for many rows (`bench` shows it)."""

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ops.onednn.qlinear_prepack(values, None), requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self._zeros = torch.zeros(len(scale), dtype=torch.int32)
        number = next(_numbers)
        self.register_buffer("number", torch.tensor(number), persistent=False)
        _packed[number] = self

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return self.multiply(x)
        out: Tensor = torch.ops.warpcortex.multiply(x, self.scale, self.number)
        return out

    def multiply(self, x: Tensor) -> Tensor:
        """uint8 [tokens, in], zero at 128 -> fp32 [tokens, out], the tokens' scales not applied."""
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, _ZERO, self.values, self.scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out


# A compiler cannot look into packed weights, so they are multiplied by an operator that finds them by number; and the
# number is a tensor, or code would be compiled for each of them.
_packed: WeakValueDictionary[int, PackedWeight] = WeakValueDictionary()
_numbers = count()
_library = torch.library.Library("warpcortex", "FRAGMENT")
_library.define("multiply(Tensor x, Tensor scale, Tensor number) -> Tensor")
_library.impl("multiply", lambda x, _scale, number: _packed[int(number)].multiply(x), "CPU")


@torch.library.register_fake("warpcortex::multiply")
def _multiplied(x: Tensor, scale: Tensor, number: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], scale.shape[0], dtype=torch.float32)


class Int8Linear(nn.Module):
    """Linear layers over int8 weights, computed as one; takes and gives the type of its input.

    Args:
        linears: those that are always given the same input, in the order in which they are.
    """

    def __init__(self, linears: Sequence[nn.Linear], quantized: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        weights = [_quantized(linear.weight) for linear in linears] if quantized is None else [quantized]
        self.weight = _weight(torch.cat([v for v, _ in weights]), torch.cat([s for _, s in weights]))
        self.sizes = [linear.out_features for linear in linears]
        self.bias = None
        if any(linear.bias is not None for linear in linears):
            biases = [
                torch.zeros(n) if lin.bias is None else lin.bias for n, lin in zip(self.sizes, linears, strict=True)
            ]
            self.bias = nn.Parameter(torch.cat([b.detach().float() for b in biases]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        values, scale = _activations(x)
        out = self.weight(values)
        out.mul_(scale)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).view(*x.shape[:-1], out.shape[1])


class Joint(nn.Module):
    """Layers that are always given the same tensor, such as q, k and v: computed when the first of them is called.

    Nothing in a forward changes that tensor in place. What was computed is kept until the last one has taken its part.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.linear = Int8Linear(linears)
        self._of: Tensor | None = None
        self._parts: Sequence[Tensor] = ()

    def part(self, number: int, x: Tensor) -> Tensor:
        """What layer `number` gives for `x`."""
        if self._of is not x:
            self._of, self._parts = x, self.linear(x).split(self.linear.sizes, -1)
        found = self._parts[number]
        if number == len(self._parts) - 1:
            self._of, self._parts = None, ()
        return found


class Share(nn.Module):
    """One layer of a joint."""

    def __init__(self, joint: Joint, number: int) -> None:
        super().__init__()
        self.joint = joint
        self._number = number
        self.out_features = joint.linear.sizes[number]

    def forward(self, x: Tensor) -> Tensor:
        return self.joint.part(self._number, x)


def _weight(values: Tensor, scale: Tensor) -> Int8Weight | PackedWeight:
    return PackedWeight(values, scale) if packs() else Int8Weight(values, scale)


class Int8Embedding(nn.Module):
    """Rows of int8 weights; keeps what the model's own one does.

    A tied head shares them, unless it packs its own: rows cannot be read out of packed blocks.
    """

    def __init__(self, values: Tensor, scale: Tensor, dtype: torch.dtype, own: nn.Embedding) -> None:
        super().__init__()
        self.weight = nn.Parameter(values, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self._dtype = dtype
        self._factor = getattr(own, "embed_scale", None)  # of Gemma
        self.num_embeddings, self.embedding_dim = values.shape

    def forward(self, ids: Tensor) -> Tensor:
        rows = (self.weight[ids].float() * self.scale[ids][..., None]).to(self._dtype)
        return rows if self._factor is None else rows * self._factor.to(rows.dtype)


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
    dtype = model.dtype
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    if type(embedding).__name__.endswith("Embedding") and isinstance(embedding, nn.Embedding):
        pair = _quantized(embedding.weight)
        model.set_input_embeddings(Int8Embedding(*pair, dtype, embedding))
        if tied:
            model.set_output_embeddings(Int8Linear([head], pair))
    for parent in list(model.modules()):
        _exchange(parent)


def _exchange(parent: nn.Module) -> None:
    """Replaces the linear layers that `parent` holds itself."""
    linears = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
    for names in _TOGETHER:
        if all(name in linears for name in names):
            joint = Joint([linears.pop(name) for name in names])
            for number, name in enumerate(names):
                setattr(parent, name, Share(joint, number))
    for name, linear in linears.items():
        setattr(parent, name, Int8Linear([linear]))
