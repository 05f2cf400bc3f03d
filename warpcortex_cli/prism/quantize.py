"""Weights of 16, 8 or 4 bits for the CPU, where decoding is bound by reading them.

Each 32 inputs of an output share a scale and, with 4 bits, a minimum; with 4 bits the embedding and the head have 8.
Activations are quantized in every step: for 8 bits to int16 with a scale per token, since with int8 the outliers of
trained models would cost more than the weights' rounding; for 4 bits to int8 with a scale per 32 inputs, whose error is
below that of such weights. A token's result depends on no other row. 16 bits are bfloat16, in which most models are
published, so their weights are exact. "file" keeps the levels, scales and minima of a GGUF file, and its fp16 and
bfloat16; what is in fp32 or unpacked becomes bfloat16.

The kernels of `native` compute the products. Without a compiler torch does, more slowly, and only for 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.grouped import Grouped, rounded
from warpcortex_cli.prism import native
from warpcortex_cli.prism.packing import BLOCKS, Packing
from warpcortex_cli.prism.weights import Filling, fill_all, source_of

FILE = "file"
FORMATS: dict[str, int | None] = {FILE: None, "bf16": native.BF16, "int8": native.INT8, "int4": native.INT4}
BITS = {"bf16": 16, "int8": 8, "int4": 4}  # per weight
_TABLE = {**FORMATS, "int4": native.INT8}  # of the embedding and the head
_ROWS = 1024  # weight rows that torch dequantizes at a time
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers with a common input, in this order


class Packed(nn.Module):
    """Linear layers over packed weights, computed as one. The output has the input's dtype.

    Args:
        weight: from `native.pack`.
        bias: of all outputs, or None.
        format: of the weights, one of `native`'s.
        sizes: outputs of each layer.

    Attributes:
        in_features, out_features: set if this replaces a single linear layer.
    """

    in_features: int
    out_features: int

    def __init__(self, weight: Tensor, bias: Tensor | None, format: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.format = format
        self.sizes = list(sizes)
        self._outputs = sum(sizes)

    @classmethod
    def of(cls, layers: Sequence[Grouped], bias: Tensor | None) -> Packed:
        """Layers with a common input, in this order, with these levels."""
        packed, format = native.pack_grouped(Grouped.concatenated(layers))
        return cls(packed, bias, format, [len(layer.levels) for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        # torch.compile needs a custom op; otherwise skip torch's dispatcher.
        multiply = torch.ops.warpcortex.multiply if torch.compiler.is_compiling() else native.multiply
        out: Tensor = multiply(rows, self.weight, self.bias, self.format, self._outputs)
        return out.to(x.dtype).view(*x.shape[:-1], self._outputs)

    def summarize(self, x: Tensor, total: bool) -> list[tuple[float, int, float]]:
        """As a `Head`, for x [n, inputs]. The total is free here."""
        return native.summarize(x.float(), self.weight, self.bias, self.format, self._outputs)

    def logits_bytes(self, rows: int) -> int:
        """As a `Head`: logits are never stored."""
        return 0


_library = torch.library.Library("warpcortex", "FRAGMENT")
_library.define("multiply(Tensor x, Tensor packed, Tensor? bias, int format, int outputs) -> Tensor")
_library.impl("multiply", native.multiply, "CPU")


@torch.library.register_fake("warpcortex::multiply")
def _multiplied(x: Tensor, packed: Tensor, bias: Tensor | None, format: int, outputs: int) -> Tensor:
    return x.new_empty(x.shape[0], outputs)


class Plain(nn.Module):
    """The same over 8-bit weights by torch: slow, since each step dequantizes them, some rows at a time."""

    in_features: int
    out_features: int

    def __init__(self, weights: Grouped, bias: Tensor | None, sizes: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights.levels, requires_grad=False)
        self.scale = nn.Parameter(weights.scales, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.sizes = list(sizes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        by = torch.exp2(15.0 - torch.frexp(rows.abs().amax(1, True)).exponent)  # rounded as by the kernels
        by = torch.where((rows * by).round().abs().amax(1, True) >= 1 << 15, by / 2, by)
        rows = (rows * by).round_() / by
        parts = zip(self.weight.split(_ROWS), self.scale.split(_ROWS), strict=True)
        out = torch.cat([rows @ Grouped(levels, scales, None, 8).weights().T for levels, scales in parts], 1)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).view(*x.shape[:-1], out.shape[1])

    def rows(self, which: Tensor) -> Tensor:
        """Weights of the outputs `which`, fp32 [len(which), inputs]."""
        return Grouped(self.weight[which], self.scale[which], None, 8).weights()


class Joint(nn.Module):
    """Layers with a common input, such as q, k and v, all computed when the first one is called.

    Nothing in a forward changes that input in place. The outputs are kept until the last layer has taken its part.
    """

    def __init__(self, linear: Packed | Plain) -> None:
        super().__init__()
        self.linear = linear
        self._of: Tensor | None = None
        self._parts: Sequence[Tensor] = ()

    def part(self, number: int, x: Tensor) -> Tensor:
        """The output of layer `number` for `x`."""
        if self._of is not x:
            self._of, self._parts = x, self.linear(x).split(self.linear.sizes, -1)
        found = self._parts[number]
        if number == len(self._parts) - 1:
            self._of, self._parts = None, ()
        return found


class Share(nn.Module):
    """One layer of a `Joint`."""

    def __init__(self, joint: Joint, number: int, in_features: int) -> None:
        super().__init__()
        self.joint = joint
        self.number = number
        self.in_features, self.out_features = in_features, joint.linear.sizes[number]

    def forward(self, x: Tensor) -> Tensor:
        return self.joint.part(self.number, x)


class Embedding(nn.Module):
    """An embedding of packed weights, which a tied head shares; scales like the model's own embedding.

    Args:
        table: the weights as a linear layer.
        own: the model's embedding.
        dtype: of the output.

    Attributes:
        factor: what rows are multiplied with, or None.
    """

    def __init__(self, table: Packed | Plain, own: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.table = table
        self.weight = table.weight  # where transformers looks up the device
        self._dtype = dtype
        factor = getattr(own, "scalar_embed_scale", getattr(own, "embed_scale", None))  # Gemma's
        self.factor = None if factor is None else torch.as_tensor(factor).to(dtype)
        self.num_embeddings, self.embedding_dim = own.num_embeddings, own.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        rows = self._rows(ids.reshape(-1)).to(self._dtype).view(*ids.shape, self.embedding_dim)
        return rows if self.factor is None else rows * self.factor

    def _rows(self, ids: Tensor) -> Tensor:
        """fp32 [len(ids), embedding_dim]"""
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_embeddings:
            raise IndexError(f"token {int(ids.max())} is outside the vocabulary of {self.num_embeddings}")
        if isinstance(self.table, Packed):
            return native.unpack(self.table.weight, self.table.format, ids, self.embedding_dim)
        return self.table.rows(ids)


def joined(
    linears: Sequence[nn.Linear | nn.Embedding],
    format: int | None,
    filling: Filling | None = None,
    packing: Packing | None = None,
) -> Packed | Plain:
    """Quantizes layers with a common input, in this order.

    Args:
        format: one of `native`'s; None: the file's own.
        filling: reads parameters that are still on meta.
        packing: packs the blocks of a GGUF file, all at once when it finishes.
    """
    if filling is not None and format is None:
        if packing is not None and (packed := _packed_blocks(linears, filling, packing)) is not None:
            return packed
        kept = [levels for levels in map(filling.grouped, linears) if levels is not None]
        if len(kept) == len(linears):
            for linear in linears:
                filling.fill(linear, torch.float32, but=("weight",))
            return Packed.of(kept, _bias(linears))
    format = _of_numbers(linears, filling) if format is None else format
    if filling is not None:
        for linear in linears:
            filling.fill(linear, torch.bfloat16 if format == native.BF16 else None)
    sizes, bias = [len(linear.weight) for linear in linears], _bias(linears)
    if format != native.INT8 or native.usable():
        weight = linears[0].weight if len(linears) == 1 else torch.cat([linear.weight for linear in linears])
        return Packed(native.pack(weight, format), bias, format, sizes)
    some = [part for linear in linears for part in linear.weight.split(native.ROWS)]  # few are in fp32 at once
    found = [rounded(part) for part in some]
    levels, scales = torch.cat([f.levels for f in found]), torch.cat([f.scales for f in found])
    return Plain(Grouped(levels, scales, None, 8), bias, sizes)


def _of_numbers(linears: Sequence[nn.Linear | nn.Embedding], filling: Filling | None) -> int:
    """The 16-bit format of layers that a file does not store in levels: fp16 if all are stored in it, else bfloat16."""
    stored = {filling.stored(linear) for linear in linears} if filling is not None else set()
    return native.F16 if stored == {torch.float16} else native.BF16


def _packed_blocks(linears: Sequence[nn.Linear | nn.Embedding], filling: Filling, packing: Packing) -> Packed | None:
    """Layers packed directly from a GGUF file's blocks; None if they are not all of one type of `BLOCKS`."""
    found = [blocks for blocks in map(filling.blocks, linears) if blocks is not None]
    kinds = {kind for kind, _ in found}
    if len(found) < len(linears) or len(kinds) > 1 or not kinds <= BLOCKS.keys():
        return None
    rows, inputs = [part for _, parts in found for part in parts], linears[0].weight.shape[1]
    if inputs % BLOCKS[kind := kinds.pop()][1]:  # rows of plain numbers may have any length
        return None
    packed, format = packing.add(kind, rows, inputs, lambda: [filling.read(linear) for linear in linears])
    for linear in linears:
        filling.fill(linear, torch.float32, but=("weight",))
    return Packed(packed, _bias(linears), format, [len(linear.weight) for linear in linears])


def _bias(linears: Sequence[nn.Linear | nn.Embedding]) -> Tensor | None:
    """The concatenated bias, fp32 [outputs]; None if no layer has one."""
    given = [getattr(linear, "bias", None) for linear in linears]
    if all(b is None for b in given):
        return None
    pairs = zip(linears, given, strict=True)
    return torch.cat([torch.zeros(len(x.weight)) if b is None else b.detach().float() for x, b in pairs])


def check_device(kind: str, device: torch.device) -> None:
    """Raises ModelError if weights on this device cannot be packed."""
    if device.type != "cpu":
        raise ModelError(
            f"--quantize {kind} works only on the CPU, and the model is on {device}.",
            "Add --device cpu, or leave --quantize out.",
        )


def quantize(model: PreTrainedModel, kind: str, dtype: torch.dtype) -> None:
    """Replaces every linear layer and the embedding, one at a time, so that little is in memory twice.

    Args:
        model: on the CPU, or on meta with a source of weights, from which each layer is read in turn.
        kind: "bf16", "int8", "int4", or "file" for a GGUF file.
        dtype: of activations and of the other weights.

    Raises:
        ModelError: the model is not on the CPU.
        RunError: the kernels cannot be compiled here, and `kind` is not "int8".
    """
    if source_of(model) is None:
        check_device(kind, model.device)
    format, table_format, other = FORMATS[kind], _TABLE[kind], model.dtype != dtype
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    filling = Filling(model)
    packing = Packing(filling.room) if kind == FILE else None
    if type(embedding).__name__.endswith("Embedding") and isinstance(embedding, nn.Embedding):
        table = joined([embedding], table_format, filling, packing)
        model.set_input_embeddings(Embedding(table, embedding, dtype))
        if tied:
            model.set_output_embeddings(table)
    if type(head) is nn.Linear and model.get_output_embeddings() is head:
        model.set_output_embeddings(joined([head], table_format, filling, packing))
    del embedding, head  # the originals of packed weights must be freed
    for parent in [m for m in model.modules() if type(m) is not nn.Linear]:
        _exchange(parent, format, filling, packing)
    if packing is not None:
        packing.finish()
    fill_all(model, dtype)
    if other:
        nn.Module.to(model, dtype)
        model.config.dtype = dtype


def _exchange(
    parent: nn.Module, format: int | None, filling: Filling | None = None, packing: Packing | None = None
) -> None:
    """Replaces the direct linear layers of `parent`."""
    linears = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
    for names in _TOGETHER:
        if all(name in linears for name in names):
            inputs = linears[names[0]].in_features
            joint = Joint(joined([linears.pop(name) for name in names], format, filling, packing))
            for number, name in enumerate(names):
                setattr(parent, name, Share(joint, number, inputs))
    for name, linear in linears.items():
        alone = joined([linear], format, filling, packing)
        alone.in_features, alone.out_features = linear.in_features, linear.out_features
        setattr(parent, name, alone)
