"""The Python interface of the CPU kernels. All tensors are on the CPU.

The kernels need a C++ compiler, like `--compile`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from warpcortex_cli.errors import RunError
from warpcortex_cli.gguf.grouped import GROUP, Grouped
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Slab, TailView
from warpcortex_cli.prism.library import built, elsewhere
from warpcortex_cli.prism.low_rank import LINEARS, Adapted

_LANES = 16
MINIMA = 32  # a format's number is its bits, plus this if groups have minima
INT4, INT8, BF16, F16 = 4 + MINIMA, 8, 16, 16 + 64  # formats of packed weights, by the kernels' numbers
INT5, INT6 = 5 + MINIMA, 6  # of GGUF files; that of 6 bits has a scale for each 16 inputs
_FORMATS = (4, INT4, INT5, INT6, INT8, 8 + MINIMA, BF16, F16)
_MOST_INPUTS = 1 << 17  # more than any model's layers
_AT_ONCE = 1 << 18  # weights packed at a time: in fp32 they fit into a core's cache
ROWS = 16384  # weight rows converted to fp32 at a time; a multiple of the lanes


class _Readers(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("start", "tokens", "each")),
        *((name, ctypes.c_void_p) for name in ("slots", "lengths", "tails")),
        *((name, ctypes.c_int64) for name in ("tail_slot", "tail_head", "parts")),
        ("reads", ctypes.c_void_p),
    )


_Groups = ctypes.POINTER(ctypes.POINTER(_Readers))


class _Attention(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value")),
        *((f"{name}_{by}", ctypes.c_int64) for name in ("query", "key", "value") for by in ("head", "row")),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("kv_heads", "shared", "d", "layer")),
        ("scaling", ctypes.c_float),
        ("groups", _Groups),
        ("count", ctypes.c_int64),
    )


class Form(NamedTuple):
    """The shape and dtype of keys and values."""

    layers: int
    kv_heads: int
    d: int
    dtype: torch.dtype


@dataclass(frozen=True)
class _Place:
    """Addresses of keys and values.

    Attributes:
        table: int64 [layers, 2 or 5]: addresses of keys and values; of shared parts also the tokens and both head
            strides.
        held: objects to keep alive while the addresses are used. Not a slab's tensors, which it replaces as it grows.
        form: of all of them.
        moves: the slab's count when the addresses were taken.
    """

    table: Tensor
    held: Sequence[object]
    form: Form
    moves: int = 0


_places: WeakKeyDictionary[Segment | Slab, _Place] = WeakKeyDictionary()  # a cache, since collecting all layers is slow


def _place(of: Segment | TailView | Slab) -> _Place:
    """Raises ValueError: the kernels cannot read these keys and values."""
    if isinstance(of, TailView):
        slab, slot = of.tail.slab, of.tail.slot
        room, whole = slab.rooms[0].data, _place(slab)
        if not 0 <= of.start <= of.start + of.tokens <= slab.capacity:
            raise ValueError(f"{of.tokens} tokens from {of.start} on are not in a tail of {slab.capacity}")
        table = torch.empty(len(whole.table), 5, dtype=torch.long)
        table[:, :2] = whole.table + (slot * room.stride(0) + of.start * room.stride(2)) * room.itemsize
        table[:, 2:] = torch.tensor((of.tokens, room.stride(1), room.stride(1)))
        return _Place(table, (slab,), whole.form)
    known = _places.get(of)
    if isinstance(of, Slab):  # it has other tensors after it has grown
        if known is not None and known.moves == of.moves:
            return known
        rooms = [(k.data.data_ptr(), v.data.data_ptr()) for k, v in zip(of.keys, of.values, strict=True)]
        known = _Place(torch.tensor(rooms), (), _form([room.data[0] for room in of.rooms]), of.moves)
    elif known is not None:
        return known
    else:
        pairs = [(_beside(k), _beside(v)) for k, v in zip(of.keys, of.values, strict=True)]
        rows = [(k.data_ptr(), v.data_ptr(), k.shape[1], k.stride(0), v.stride(0)) for k, v in pairs]
        known = _Place(torch.tensor(rows), pairs, _form([*of.keys, *of.values]))
    _places[of] = known
    return known


def _form(parts: Sequence[Tensor]) -> Form:
    """The common form of keys and values [kv_heads, tokens, d]. Raises ValueError: they differ or are unsupported."""
    first = parts[0]
    if any(p.shape != first.shape or p.dtype != first.dtype or p.device.type != "cpu" or p.dim() != 3 for p in parts):
        raise ValueError("keys and values are not of one form, on the CPU")
    if not Readers.serves(first.dtype, first.shape[2]):
        raise ValueError(f"the kernels do not attend to {_described(first)}")
    return Form(len(parts) // 2, first.shape[0], first.shape[2], first.dtype)


class Readers:
    """Tokens of a step that read the same parts and whose tails are in one slab; for all layers.

    Args:
        start: index of the first packed token.
        each: tokens per row.
        slots, lengths: int64 [tokens]: the slot of each token's tail, and how many of the tail's tokens it sees,
            itself included.
        slab: of the tails.
        parts: read by all of them.

    Raises:
        ValueError: these do not fit together, or a token sees more than its tail holds.
    """

    def __init__(
        self, start: int, each: int, slots: Tensor, lengths: Tensor, slab: Slab, parts: Sequence[Segment | TailView]
    ) -> None:
        places, tails = [_place(part) for part in parts], _place(slab)
        if any(place.form != tails.form for place in places):
            raise ValueError("tails and what they read are not of one form")
        for name, x, most in (("slots", slots, slab.slots - 1), ("lengths", lengths, slab.capacity)):
            _given(name, x, torch.long, (len(slots),))
            if not len(x) or not int(most == slab.capacity) <= int(x.min()) <= int(x.max()) <= most:
                raise ValueError(f"not all {name} are in the slab")
        if start < 0 or each < 1 or len(slots) % each:
            raise ValueError(f"{len(slots)} tokens are no rows of {each}")
        reads = torch.stack([p.table for p in places], 1) if places else torch.empty(0, dtype=torch.long)
        self._held = slots.contiguous(), lengths.contiguous(), places, reads, tails, slab
        room = slab.rooms[0].data
        self.given = _Readers(
            start=start, tokens=len(slots), each=each, slots=self._held[0].data_ptr(), lengths=self._held[1].data_ptr(),
            tails=tails.table.data_ptr(), tail_slot=room.stride(0), tail_head=room.stride(1),
            parts=len(parts), reads=reads.data_ptr(),
        )  # fmt: skip
        self.form, self.own = tails.form, range(start, start + len(slots))

    @staticmethod
    def serves(dtype: torch.dtype, head_dim: int) -> bool:
        return dtype in (torch.float32, torch.bfloat16) and head_dim % _LANES == 0

    @staticmethod
    def serves_many(dtype: torch.dtype, head_dim: int) -> bool:
        """Whether rows of many tokens are faster here than in torch."""
        return bool(kernels().attends_many(int(dtype == torch.bfloat16), head_dim))


class Attending:
    """Attention of some groups of a step, with one call per layer.

    Raises:
        ValueError: their forms differ, or they share tokens.
    """

    def __init__(self, groups: Sequence[Readers]) -> None:
        self.form = groups[0].form
        own = sorted((g.own for g in groups), key=lambda tokens: tokens.start)
        if any(g.form != self.form for g in groups) or any(a.stop > b.start for a, b in pairwise(own)):
            raise ValueError("groups are of several forms, or share tokens")
        self._end = own[-1].stop
        self.whole = range(self._end) if sum(map(len, own)) == self._end else range(0)  # 0 if a token is in no group
        self._groups = groups
        self._pointers = (ctypes.POINTER(_Readers) * len(groups))(*(ctypes.pointer(g.given) for g in groups))
        self._given = _Attention(groups=ctypes.cast(self._pointers, _Groups), count=len(groups))
        self._attend = kernels().attend

    def attend(self, number: int, qkv: tuple[Tensor, Tensor, Tensor], scaling: float) -> Tensor:
        """Appends a layer's new keys and values to the tails, and attends.

        Args:
            number: the layer's.
            qkv: of all packed tokens: [heads, tokens, d] and twice [kv_heads, tokens, d].

        Returns:
            [tokens, heads, d]; undefined for tokens in no group.

        Raises:
            ValueError: their form is not that of the parts, or there are too few.
        """
        given, form = self._given, self.form
        heads, rows, d = qkv[0].shape
        for tensor, count in zip(qkv, (heads, form.kv_heads, form.kv_heads), strict=True):
            if tensor.shape != (count, rows, form.d) or tensor.dtype != form.dtype or tensor.device.type != "cpu":
                raise ValueError(f"queries, keys or values are {_described(tensor)}")
        if heads % form.kv_heads or rows < self._end or not 0 <= number < form.layers:
            raise ValueError(f"{heads} heads of {rows} tokens in layer {number} do not attend to {form}")
        held = [_lined_up(t) for t in qkv]
        for name, tensor in zip(("query", "key", "value"), held, strict=True):
            setattr(given, name, tensor.data_ptr())
            setattr(given, f"{name}_head", tensor.stride(0))
            setattr(given, f"{name}_row", tensor.stride(1))
        out = held[0].new_empty(rows, heads, d)
        given.out, given.kv_heads, given.d = out.data_ptr(), len(held[1]), d
        given.shared, given.scaling, given.layer = heads // len(held[1]), scaling, number
        self._attend(int(out.dtype == torch.bfloat16), ctypes.byref(given), torch.get_num_threads())
        return out

    @property
    def given(self) -> Any:
        """The kernels' argument, valid while this lives; the fields of a layer are not set."""
        return ctypes.byref(self._given)


_NORMS = ("first", "query", "key", "attended", "second", "fed")


class _Norm(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("epsilon", ctypes.c_float))


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("format", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("number", "width", "heads", "kv_heads", "d", "inner", "gelu")),
        *((name, _Norm) for name in _NORMS),
        *((name, _Linear) for name in LINEARS),
    )


@dataclass(frozen=True)
class Norm:
    """An RMS norm: weight fp32 [size], and the epsilon added to the mean square."""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True)
class Linear:
    """Packed weights, the bias fp32 [outputs] or None, the format."""

    packed: Tensor
    bias: Tensor | None
    format: int
    outputs: int


@dataclass(frozen=True)
class Parts:
    """The parts of a usual transformers decoder layer; missing norms are None.

    Attributes:
        qkv: the joint projection to query heads, key heads, value heads.
        output: attention's output projection.
        gate_up, down: the feed-forward part; all gates come first.
        first, second: norms before attention and before the feed-forward part.
        query, key: norms of each head, before the rotary embedding.
        attended, fed: norms of the two parts' outputs, before the residual addition.
        gelu: whether the activation is GELU (tanh approximation) instead of SiLU.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv: Linear
    output: Linear
    gate_up: Linear
    down: Linear
    first: Norm
    second: Norm
    query: Norm | None
    key: Norm | None
    attended: Norm | None
    fed: Norm | None
    gelu: bool

    @property
    def linears(self) -> dict[str, Linear]:
        return {name: getattr(self, name) for name in LINEARS}

    @property
    def norms(self) -> dict[str, Norm]:
        """Those the layer has."""
        return {name: norm for name in _NORMS if (norm := getattr(self, name)) is not None}


class LayerKernels:
    """A decoder layer before and after its attention, one call each. All tensors are fp32.

    Args:
        parts: its weights.
        number: the layer's, from 0.

    Raises:
        ValueError: the sizes of the parts do not fit together.
    """

    def __init__(self, parts: Parts, number: int) -> None:
        _check(parts)
        self.parts, self.number = parts, number  # `parts` keeps the tensors behind the addresses below alive
        given = _Layer(
            number=number, width=len(parts.first.weight), heads=parts.heads, kv_heads=parts.kv_heads, d=parts.head_dim,
            inner=parts.gate_up.outputs // 2, gelu=parts.gelu,
        )  # fmt: skip
        for name, norm in parts.norms.items():
            setattr(given, name, _Norm(norm.weight.data_ptr(), norm.epsilon))
        for name, linear in parts.linears.items():
            setattr(
                given, name, _Linear(linear.packed.data_ptr(), _address(linear.bias), linear.format, linear.outputs)
            )
        self.held, self._given = given, ctypes.byref(given)
        self._kernels = kernels()

    def before(self, hidden: Tensor, cosine: Tensor, sine: Tensor, adapted: Adapted | None = None) -> Tensor:
        """Queries, keys and values [heads + 2 * kv_heads, tokens, d], rotated, from hidden states [tokens, width].

        Args:
            cosine, sine: [tokens, rotary dims].
            adapted: adapters of some tokens.

        Raises:
            ValueError: a shape is wrong.
        """
        parts, rows = self.parts, len(hidden)
        x, cosine, sine = self.checked(hidden, cosine, sine)
        out = x.new_empty(rows, parts.heads + 2 * parts.kv_heads, parts.head_dim)
        self._kernels.before_attention(
            self._given, self._address(adapted, rows), x.data_ptr(), cosine.data_ptr(), sine.data_ptr(),
            cosine.shape[1], out.data_ptr(), rows, torch.get_num_threads(),
        )  # fmt: skip
        return out.transpose(0, 1)

    def checked(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments made contiguous. Raises ValueError if they do not fit each other and the layer."""
        rows, parts = len(hidden), self.parts
        if cosine.shape != sine.shape or len(cosine) != rows or not 0 <= cosine.shape[-1] <= parts.head_dim:
            raise ValueError(f"cosine and sine {tuple(cosine.shape)} are not of {rows} tokens")
        turned = cosine.shape[-1]
        return (
            _given("hidden states", hidden, torch.float32, (rows, len(parts.first.weight))),
            _given("cosines", cosine, torch.float32, (rows, turned)),
            _given("sines", sine, torch.float32, (rows, turned)),
        )

    def after(self, hidden: Tensor, read: Tensor, adapted: Adapted | None = None) -> Tensor:
        """The layer's output [tokens, width].

        Args:
            hidden: its input, [tokens, width].
            read: attention's output, [tokens, heads, d].
            adapted: adapters of some tokens.

        Raises:
            ValueError: a shape or type is wrong.
        """
        parts, rows = self.parts, len(hidden)
        x = _given("hidden states", hidden, torch.float32, (rows, len(parts.first.weight)))
        read = _given("attention outputs", read, torch.float32, (rows, parts.heads, parts.head_dim))
        out = x.clone()
        self._kernels.after_attention(
            self._given, self._address(adapted, rows), out.data_ptr(), read.data_ptr(), rows, torch.get_num_threads()
        )
        return out

    def _address(self, adapted: Adapted | None, rows: int) -> int | None:
        return None if adapted is None else adapted.address(rows, self.number + 1)


class _Through(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("layers", "scalings")),
        *((name, ctypes.c_int64) for name in ("count", "first")),
        *((name, ctypes.c_void_p) for name in ("hidden", "cosine", "sine")),
        *((name, ctypes.c_int64) for name in ("turned", "rows")),
        *((name, ctypes.c_void_p) for name in ("qkv", "own_qkv", "read", "queries")),
        *((name, ctypes.c_int64) for name in ("watch", "watched")),
        *((name, ctypes.c_void_p) for name in ("adapted", "seconds")),
    )


LAPS = ("between", "qkv", "attention", "output", "gate and up", "down")  # `Part` of kernels/laps.h


class Layers:
    """Consecutive layers with equal heads, including attention, in one call.

    Args:
        first: the number of the first layer.
        layers: the kernels of each.
        scalings: the scale of each layer's attention scores.

    Attributes:
        seconds: accumulates the time of each of `LAPS` if set, to `(c_double * len(LAPS))()`.
    """

    seconds: ctypes.Array[ctypes.c_double] | None = None

    def __init__(self, first: int, layers: Sequence[LayerKernels], scalings: Sequence[float]) -> None:
        self.first, self.count = first, len(layers)
        parts = layers[0].parts
        self._heads, self._kv_heads, self._d = parts.heads, parts.kv_heads, parts.head_dim
        self._held = list(layers)  # keeps the layers alive
        self._layers = (ctypes.c_void_p * self.count)(*(ctypes.addressof(layer.held) for layer in layers))
        self._scalings = (ctypes.c_float * self.count)(*scalings)
        self._kernels = kernels()

    def run(
        self,
        hidden: Tensor,
        cosine: Tensor,
        sine: Tensor,
        attending: Attending,
        watched: range,
        adapted: Adapted | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [tokens, width] after the last layer, and queries [layers, heads, watched, d].

        Args:
            hidden: [tokens, width], fp32.
            cosine, sine: [tokens, rotary dims], fp32.
            attending: attention of all tokens of the step, over keys and values in bf16.
            watched: tokens whose queries are returned.
            adapted: adapters of some tokens.

        Raises:
            ValueError: a shape or type is wrong, or they do not fit together.
        """
        rows, heads, d = len(hidden), self._heads, self._d
        own, cosine, sine = self._held[0].checked(hidden, cosine, sine)
        layers, *form = attending.form
        if form != [self._kv_heads, d, torch.bfloat16] or self.first + self.count > layers:
            raise ValueError(f"these layers do not attend to {attending.form}")
        if attending.whole != range(rows) or not 0 <= watched.start <= watched.stop <= rows or watched.step != 1:
            raise ValueError(f"not all of {rows} tokens attend, or {watched} are not of them")
        out = own.clone()
        qkv = out.new_empty(rows, heads + 2 * self._kv_heads, d)
        own_qkv = torch.empty_like(qkv, dtype=torch.bfloat16)
        read = own_qkv.new_empty(rows, heads, d)
        queries = read.new_empty(self.count, heads, len(watched), d)
        given = _Through(
            layers=ctypes.addressof(self._layers), scalings=ctypes.addressof(self._scalings), count=self.count,
            first=self.first, hidden=out.data_ptr(), cosine=cosine.data_ptr(), sine=sine.data_ptr(),
            turned=cosine.shape[1], rows=rows, qkv=qkv.data_ptr(), own_qkv=own_qkv.data_ptr(),
            read=read.data_ptr(), queries=queries.data_ptr(), watch=watched.start, watched=len(watched),
            adapted=None if adapted is None else adapted.address(rows, self.first + self.count),
            seconds=None if self.seconds is None else ctypes.addressof(self.seconds),
        )  # fmt: skip
        self._kernels.through_layers(ctypes.byref(given), attending.given, torch.get_num_threads())
        return out, queries


def _check(parts: Parts) -> None:
    """Checks all sizes, since the kernels do not. Raises ValueError."""
    width, heads = len(parts.first.weight), parts.heads * parts.head_dim
    inner = parts.gate_up.outputs // 2
    if inner % _LANES:
        raise ValueError(f"{inner} gates are not a multiple of {_LANES}")  # `up` must begin with a panel
    sizes = {
        "qkv": (heads + 2 * parts.kv_heads * parts.head_dim, width),
        "output": (width, heads),
        "gate_up": (2 * inner, width),
        "down": (width, inner),
    }
    if parts.heads < 1 or parts.kv_heads < 1 or parts.heads % parts.kv_heads:
        raise ValueError(f"{parts.heads} heads of {parts.head_dim} do not share {parts.kv_heads} of keys")
    for name, linear in parts.linears.items():
        outputs, inputs = sizes[name]
        if linear.outputs != outputs:
            raise ValueError(f"{name} is not of {outputs} x {inputs}")
        nbytes = packed_bytes(linear.format, outputs, inputs)
        _lies(name, linear.packed, torch.uint8, (nbytes,))
        if linear.bias is not None:
            _lies(f"the bias of {name}", linear.bias, torch.float32, (outputs,))
    for name, norm in parts.norms.items():
        size = parts.head_dim if name in ("query", "key") else width
        _lies(f"the norm {name}", norm.weight, torch.float32, (size,))


def _lies(name: str, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Checks that a tensor is contiguous and can be read in place. Raises ValueError."""
    if not _given(name, x, dtype, shape).data_ptr() == x.data_ptr():
        raise ValueError(f"{name} is not contiguous")


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _lined_up(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _beside(x: Tensor) -> Tensor:
    """The tensor with contiguous tokens."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def pack(weight: Tensor, format: int) -> Tensor:
    """Packs weights [outputs, inputs] for `multiply`: uint8 [bytes].

    Raises:
        ValueError: not a matrix of floats on the CPU, or an unknown format.
    """
    if weight.dim() != 2 or not weight.is_floating_point() or weight.device.type != "cpu":
        raise ValueError(f"weights are {_described(weight)}, not a matrix of floats on the CPU")
    outputs, inputs = weight.shape
    packed = torch.empty(packed_bytes(format, outputs, inputs), dtype=torch.uint8)
    place = 0
    for part in weight.detach().split(max(1, _AT_ONCE // inputs // _LANES) * _LANES):
        wide, rows = part.float().contiguous(), len(part)
        kernels().pack(format, wide.data_ptr(), packed[place:].data_ptr(), rows, inputs, torch.get_num_threads())
        place += kernels().packed_bytes(format, rows, inputs)
    return packed


def pack_grouped(weights: Grouped) -> tuple[Tensor, int]:
    """Packs levels as they are; also returns the format. Raises ValueError: the kernels have none for such groups."""
    outputs, inputs = weights.levels.shape
    if weights.bits == 5 and weights.minima is None:
        weights = weights.with_minima(5)
    format = weights.bits + (0 if weights.minima is None else MINIMA)
    if weights.size != (GROUP // 2 if format == INT6 else GROUP) or format not in _FORMATS:
        raise ValueError(f"the kernels have no format for {weights.bits} bits and groups of {weights.size} inputs")
    packed = torch.empty(packed_bytes(format, outputs, inputs), dtype=torch.uint8)
    levels, scales = weights.levels.contiguous(), weights.scales.float().contiguous()
    minima = None if weights.minima is None else weights.minima.float().contiguous()
    kernels().pack_levels(
        format, levels.data_ptr(), scales.data_ptr(), _address(minima), packed.data_ptr(),
        outputs, inputs, torch.get_num_threads(),
    )  # fmt: skip
    return packed, format


def unpack(packed: Tensor, format: int, which: Tensor, inputs: int) -> Tensor:
    """Rows of packed weights: fp32 [len(which), inputs]. `which`: int64 [n]. Raises ValueError: they do not exist."""
    panel = packed_bytes(format, 1, inputs)
    _lies("packed weights", packed, torch.uint8, (packed.numel(),))
    chosen = _given("rows", which, torch.long, (which.numel(),))
    if packed.numel() % panel:
        raise ValueError(f"{packed.numel()} bytes are not packed weights of {inputs} inputs")
    if len(chosen):
        first, last = (int(place) for place in chosen.aminmax())
        if not 0 <= first <= last < packed.numel() // panel * _LANES:
            raise ValueError(f"rows {first} to {last} do not all exist")
    out = torch.empty(len(chosen), inputs)
    kernels().unpack(format, packed.data_ptr(), chosen.data_ptr(), len(chosen), inputs, out.data_ptr())
    return out


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None, format: int, outputs: int) -> Tensor:
    """fp32 [tokens, inputs] times packed weights, plus the bias: fp32 [tokens, outputs].

    Each token is quantized: for 4-bit weights to int8 with a scale per 32 inputs, for 8-bit weights to int16 with one
    scale; for bfloat16 weights, and on a CPU with AMX, it is rounded to bfloat16 or stays fp32. Its result depends on
    no other row.

    Raises:
        ValueError: a shape or type is wrong, or a tensor is not on the CPU.
    """
    given, own = _factors(x, packed, bias, format, outputs)
    out = torch.empty(len(x), outputs)
    kernels().multiply(
        format, given.data_ptr(), packed.data_ptr(), _address(own), out.data_ptr(),
        len(x), x.shape[1], outputs, torch.get_num_threads(),
    )  # fmt: skip
    return out


def summarize(
    x: Tensor, packed: Tensor, bias: Tensor | None, format: int, outputs: int
) -> list[tuple[float, int, float]]:
    """What greedy sampling needs of each token's product.

    Returns:
        The maximum output, its first index, and the logsumexp. The maximum is NaN if any output is.

    Raises:
        ValueError: as `multiply`.
    """
    given, own = _factors(x, packed, bias, format, outputs)
    values, totals, places = (torch.empty(len(x), dtype=t) for t in (torch.float32, torch.float32, torch.long))
    kernels().summarize(
        format, given.data_ptr(), packed.data_ptr(), _address(own), len(x), x.shape[1],
        outputs, values.data_ptr(), places.data_ptr(), totals.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return list(zip(values.tolist(), places.tolist(), totals.tolist(), strict=True))


# -- checks ---------------------------------------------------------------------------------------------------


def _factors(x: Tensor, packed: Tensor, bias: Tensor | None, format: int, outputs: int) -> tuple[Tensor, Tensor | None]:
    """Contiguous tokens and bias of a product. Raises ValueError: sizes or types do not fit."""
    if x.dim() != 2:
        raise ValueError(f"tokens are {_described(x)}, not a matrix")
    given = _given("tokens", x, torch.float32, tuple(x.shape))
    if packed.numel() != packed_bytes(format, outputs, x.shape[1]):
        raise ValueError(f"{packed.numel()} bytes are not {outputs} x {x.shape[1]} weights of {format} format")
    _lies("packed weights", packed, torch.uint8, (packed.numel(),))
    return given, None if bias is None else _given("the bias", bias, torch.float32, (outputs,))


def packed_bytes(format: int, outputs: int, inputs: int) -> int:
    if format not in _FORMATS or outputs < 1 or not 1 <= inputs <= _MOST_INPUTS:
        raise ValueError(f"there are no weights of {outputs} x {inputs} in format {format}")
    return int(kernels().packed_bytes(format, outputs, inputs))


def _given(name: str, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor, contiguous. Raises ValueError: its dtype, shape or device is wrong."""
    if x.dtype != dtype or x.shape != shape or x.device.type != "cpu":
        raise ValueError(f"{name} are {_described(x)}, not {list(shape)} of {dtype} on the CPU")
    return x.contiguous()


def _described(x: Tensor) -> str:
    return f"{list(x.shape)} of {x.dtype} on {x.device}"


# -- the library ----------------------------------------------------------------------------------------------


@cache
def usable() -> bool:
    """Whether the kernels are or can be compiled."""
    try:
        kernels()
    except RunError:
        return False
    return True


@cache
def kernels() -> Any:
    """The library, compiled on first use.

    Raises:
        RunError: it cannot be compiled or opened here, with the reason.
    """
    path = built()
    try:
        try:
            return opened(path)
        except OSError:  # as on a file system that forbids execution
            path = elsewhere(path)
            return opened(path)
    except (OSError, AttributeError) as error:
        raise RunError(
            f"warpcortex's kernels could not be opened: {error}.",
            f"Remove {path} and try again, or set TMPDIR to a folder that permits execution.",
        ) from error


def opened(path: Path) -> Any:
    """Loads the library from a file."""
    found = ctypes.CDLL(str(path))
    size, address, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    found.packed_bytes.restype = size
    found.packed_bytes.argtypes = (number, size, size)
    found.pack.argtypes = (number, address, address, size, size, number)
    found.pack_levels.argtypes = (number, address, address, address, address, size, size, number)
    found.pack_blocks.argtypes = (address, size, number)
    found.unpack.argtypes = (number, address, address, size, size, address)
    found.multiply.argtypes = (number, address, address, address, address, size, size, size, number)
    found.summarize.argtypes = (
        number, address, address, address, size, size, size, address, address, address, number
    )  # fmt: skip
    found.attends_many.argtypes = (number, size)
    found.attend.argtypes = (number, ctypes.POINTER(_Attention), number)
    layer = ctypes.POINTER(_Layer)
    found.before_attention.argtypes = (layer, address, address, address, address, size, address, size, number)
    found.after_attention.argtypes = (layer, address, address, address, size, number)
    found.through_layers.argtypes = (ctypes.POINTER(_Through), ctypes.POINTER(_Attention), number)
    silent = "pack", "pack_levels", "pack_blocks", "unpack", "multiply", "summarize", "attend", "through_layers"
    for name in (*silent, "before_attention", "after_attention"):
        getattr(found, name).restype = None
    return found
