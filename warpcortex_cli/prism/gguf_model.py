"""A GGUF file as a transformers model: configuration, tokenizer, and its tensors as a source of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf import blocks, tokenizer
from warpcortex_cli.gguf.blocks import PLAIN
from warpcortex_cli.gguf.config import configured
from warpcortex_cli.gguf.grouped import Grouped
from warpcortex_cli.gguf.header import Header, TensorInfo, read_header
from warpcortex_cli.gguf.layout import LAYOUTS, FileRows, Origin
from warpcortex_cli.gguf.served import check_served
from warpcortex_cli.prism import ollama
from warpcortex_cli.prism.packing import BLOCKS, Room, room_for
from warpcortex_cli.prism.source import ModelSource
from warpcortex_cli.prism.weights import attach, on_meta
from warpcortex_cli.process import importing

_AGAIN = "Copy or pull the file again."
_PLACELESS = ("rope_", "rope.", "rot_embd")  # tensors that configure a rotary embedding
_SAMPLING = {  # keys of the file, and transformers' names
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


class GgufModel:
    """A model in a GGUF file. Only its header is read at first.

    Args:
        source: where the file is.

    Raises:
        ModelError: it is damaged, or cannot be served.
    """

    def __init__(self, source: ModelSource) -> None:
        self.name = source.name
        self._params = source.params
        self.header: Header = read_header(source.path, source.name)
        check_served(self.header)

    def config(self) -> Any:
        """Its configuration; ModelError if its architecture cannot be served."""
        values = configured(self.header, self._factors)
        try:
            config = AutoConfig.for_model(**values)
        except Exception as error:  # transformers' checks: the file contradicts itself
            reason = (str(error).strip().splitlines() or [""])[-1].strip()[:200]
            raise ModelError(f"{self.name} is damaged: {reason}", _AGAIN) from error
        config.eos_token_id = next(iter(self._ends), None)
        return config

    @cached_property
    def _ends(self) -> list[int]:
        return tokenizer.end_tokens(self.header)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer with the chat template; ModelError if it has none that can be served."""
        return tokenizer.built(self.header)

    def model(self, config: Any, dtype: torch.dtype, packed: bool = False) -> PreTrainedModel:
        """The model, with parameters on meta and this file as their source.

        Args:
            packed: whether its matrices will be packed as they are in the file, so that memory for them is useful.

        Raises:
            ModelError: tensors are missing, have other shapes, or have no place in the model.
        """
        room = room_for(self._matrices()) if packed else None
        with importing(), on_meta():
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
        model.tie_weights()
        model.generation_config = self._generation(config)
        attach(model, GgufWeights(self.header, config, dict(model.named_parameters()), room))
        return model

    def _matrices(self) -> Iterator[tuple[str, int, int]]:
        for info in self.header.tensors.values():
            if info.kind in BLOCKS and len(info.shape) == 2 and not info.shape[1] % BLOCKS[info.kind][1]:
                yield info.kind, *info.shape

    def _generation(self, config: Any) -> GenerationConfig:
        values: dict[str, Any] = {"eos_token_id": self._ends or None}
        for key, name in _SAMPLING.items():
            found = self.header.metadata.get(f"general.sampling.{key}")
            if isinstance(found, (int, float)):
                values[name] = found
        if values.get("temperature", 0):
            values["do_sample"] = True
        if self._params is not None:  # Ollama's parameters override the file's
            values |= ollama.generation(self._params, self.name)
        return GenerationConfig(**values)

    def _factors(self, name: str) -> list[float]:
        info = self.header.tensors[name]
        if info.kind not in PLAIN or info.values > 4096:
            raise ModelError(f"{self.name} is damaged ({name} of {info.kind} {list(info.shape)}).", _AGAIN)
        found: list[float] = torch.from_numpy(info.read()).view(PLAIN[info.kind]).float().tolist()
        return found


class GgufWeights:
    """The tensors of a GGUF file, by the names of transformers' parameters.

    Args:
        header: the file's.
        config: the model's.
        parameters: the model's, for their names and shapes.
        room: as in `WeightSource`.

    Raises:
        ModelError: they do not fit each other.
    """

    def __init__(self, header: Header, config: Any, parameters: dict[str, Tensor], room: Room | None = None) -> None:
        self._header, self.room = header, room
        self._shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        layout = LAYOUTS[header.architecture]
        sizes = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        try:
            self._origins = {name: layout.origin(name, header.tensors, sizes) for name in parameters}
        except LookupError as error:
            raise ModelError(f"{header.name} is incomplete: {error.args[0]} is missing.", _AGAIN) from None
        self._check()

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """As a `WeightSource`."""
        origin, shape = self._origins[name], self._shapes[name]
        if not origin.names:
            return torch.zeros(shape, dtype=dtype)
        parts = [
            blocks.unpacked(data, info.kind, torch.float32 if origin.shift else dtype)
            for info, data in self._rows(origin)
        ]
        found = (parts[0] if len(parts) == 1 else torch.cat(parts)).view(shape)
        if not found.sum().isfinite() and not found.isfinite().all():  # a sum may be infinite without
            raise ModelError(
                f"{self._header.name} holds weights that are no finite numbers, in {origin.names[0]}.", _AGAIN
            )
        return (found + origin.shift).to(dtype) if origin.shift else found

    def stored(self, name: str) -> torch.dtype:
        """As a `WeightSource`."""
        kinds = {self._header.tensors[n].kind for n in self._origins[name].names}
        kept = PLAIN.get(kinds.pop()) if len(kinds) == 1 and not self._origins[name].shift else None
        return kept or torch.float32

    def grouped(self, name: str) -> Grouped | None:
        """As a `WeightSource`: the file's levels."""
        origin = self._origins[name]
        if origin.shift or not origin.names:
            return None
        found = [blocks.grouped(data, info.kind) for info, data in self._rows(origin)]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return None
        for part, held in zip(parts, origin.names, strict=True):
            # A sum of finite fp16 numbers is finite in fp32.
            if any(x is not None and not x.sum().isfinite() for x in (part.scales, part.minima)):
                raise ModelError(f"{self._header.name} holds weights that are no finite numbers, in {held}.", _AGAIN)
        return Grouped.concatenated(parts)

    def blocks(self, name: str) -> tuple[str, list[FileRows]] | None:
        """As a `WeightSource`."""
        origin = self._origins[name]
        tensors = [self._header.tensors[n] for n in origin.names]
        kinds = {tensor.kind for tensor in tensors}
        if origin.shift or len(kinds) != 1 or any(len(tensor.shape) != 2 for tensor in tensors):
            return None
        rows = []
        for tensor in tensors:
            first, last = origin.rows or (0, tensor.shape[0])
            each = tensor.nbytes // tensor.shape[0]
            rows.append(FileRows(tensor.path, tensor.offset + first * each, last - first, origin.heads))
        return kinds.pop(), rows

    def names(self) -> list[str]:
        """The names of all parameters."""
        return list(self._origins)

    def _rows(self, origin: Origin) -> Iterable[tuple[TensorInfo, Tensor]]:
        """A parameter's tensors, and their rows in transformers' order, uint8 [rows, bytes]."""
        for name in origin.names:
            info = self._header.tensors[name]
            flat = torch.from_numpy(info.read())
            rows = info.shape[0] if len(info.shape) > 1 or info.kind in PLAIN else 1
            data = flat.view(rows, -1)
            if origin.rows is not None:
                data = data[slice(*origin.rows)]
            if origin.heads:
                halves = data.shape[0] // origin.heads // 2
                order = torch.arange(data.shape[0]).view(origin.heads, halves, 2).transpose(1, 2).reshape(-1)
                data = data[order]
            yield info, data

    def _check(self) -> None:
        """Checks shapes before anything is read, and that every tensor is used."""
        tensors = self._header.tensors
        used: set[str] = set()
        for name, origin in self._origins.items():
            used.update(origin.names)
            found, wanted = self._shape(origin), self._shapes[name]
            if origin.names and found != wanted:
                words = f"{origin.names[0]} is {list(found)}, not {list(wanted)}"
                raise ModelError(f"{self._header.name} is damaged ({words}).", _AGAIN)
        strange = [n for n in tensors if n not in used and not any(word in n for word in _PLACELESS)]
        if strange:
            raise ModelError(
                f"{self._header.name} holds weights that its architecture has no place for ({strange[0][:80]}).",
                _OTHER,
            )

    def _shape(self, origin: Origin) -> tuple[int, ...]:
        shapes = [self._header.tensors[n].shape for n in origin.names]
        if len({s[1:] for s in shapes}) > 1:
            return ()
        rows = sum(s[0] for s in shapes)
        if origin.rows is not None:
            rows = max(0, min(rows, origin.rows[1]) - origin.rows[0])
        return (rows, *shapes[0][1:])


_OTHER = "Choose another file of the model, or another model."
