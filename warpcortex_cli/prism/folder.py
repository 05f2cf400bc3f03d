"""A folder of safetensors as a source of weights, read tensor by tensor.

`from_pretrained` of transformers 5.24 compiles a thousand regexes, for checkpoints whose tensors are named differently
from the model's parameters, and maps whole files. Here each tensor is read when it is needed, under its parameter's
name. A folder with other names is left to `from_pretrained`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.grouped import Grouped
from warpcortex_cli.gguf.layout import FileRows
from warpcortex_cli.prism.packing import Room
from warpcortex_cli.prism.source import ModelSource, weight_files
from warpcortex_cli.prism.support import check_finite

NUMBERS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_AGAIN = "Copy or pull the model again."


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. `kind`: its type in safetensors' words; `offset`: of its first byte in the file."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)


def stored_tensors(source: ModelSource) -> dict[str, StoredTensor]:
    """All tensors of a model's files, from their headers. ModelError if a file is damaged."""
    found: dict[str, StoredTensor] = {}
    for path in weight_files(source.path, source.name):
        try:
            found.update(_header(path))
        except (OSError, SafetensorError) as error:
            reason = str(error).partition("\n")[0].removeprefix("Error while deserializing header: ")
            if "not fully covered" in reason:
                reason = "it is truncated, or has bytes behind its end"
            raise ModelError(f"{source.name}: {path.name} is damaged ({reason}).", _AGAIN) from error
    return found


def _header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file. They lie one after another up to its end, which safetensors checks."""
    with safe_open(path, "np") as file:
        tensors = [(name, file.get_slice(name)) for name in file.offset_keys()]
        sizes = {name: _nbytes(t.get_dtype(), t.get_shape()) for name, t in tensors}
        found, start = {}, path.stat().st_size - sum(sizes.values())
        for name, tensor in tensors:
            found[name] = StoredTensor(path, tensor.get_dtype(), tuple(tensor.get_shape()), start, sizes[name])
            start += sizes[name]
    return found


def _nbytes(kind: str, shape: Sequence[int]) -> int:
    """Bytes of this many values of a type whose name says its bits: F32, BF16, F8_E4M3, I64, ..."""
    bits = re.search(r"\d+", kind)
    return math.prod(shape) * (int(bits[0]) if bits else 8) // 8  # BOOL


class FolderWeights:
    """Tensors of a folder with the names and shapes of a model's parameters.

    Args:
        name: the model's, for the user.
        dtype: the type that weights are rounded to first.
    """

    def __init__(self, name: str, tensors: dict[str, StoredTensor], dtype: torch.dtype) -> None:
        self._name, self._tensors, self._dtype = name, tensors, dtype
        self.room: Room | None = None

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """As a `WeightSource`."""
        stored = self._tensors[name]
        data = np.fromfile(stored.path, np.uint8, stored.nbytes, offset=stored.offset)
        if len(data) != stored.nbytes:
            raise ModelError(f"{self._name}: {stored.path.name} ends too early.", _AGAIN)
        found = torch.from_numpy(data).view(NUMBERS[stored.kind]).view(stored.shape).to(self._dtype)
        check_finite(found, name, self._name)
        return found.to(dtype)

    def stored(self, name: str) -> torch.dtype:
        """As a `WeightSource`."""
        kept = NUMBERS[self._tensors[name].kind]
        return kept if kept.itemsize < self._dtype.itemsize else self._dtype

    def grouped(self, name: str) -> Grouped | None:
        """As a `WeightSource`: None, all weights are plain numbers."""
        return None

    def blocks(self, name: str) -> tuple[str, list[FileRows]] | None:
        """As a `WeightSource`: None, this is no GGUF file."""
        return None


def weights_of(model: nn.Module, source: ModelSource, dtype: torch.dtype) -> FolderWeights | None:
    """The weights of a model whose parameters are on meta; None if the files do not match the parameters one to one.

    If a tied weight is stored twice, transformers is left to compare the two.
    """
    tensors = stored_tensors(source)
    parameters = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - parameters.keys()
    if tied & tensors.keys() or model.state_dict().keys() != parameters.keys() | tied:
        return None
    for name, parameter in parameters.items():
        stored = tensors.get(name)
        if stored is None or stored.kind not in NUMBERS or stored.shape != tuple(parameter.shape):
            return None
        if ".experts." in name:  # transformers joins these
            return None
    if dtype != torch.float32 and any(getattr(model, f"_keep_in_fp32_modules{s}", None) for s in ("", "_strict")):
        return None
    return FolderWeights(source.name, {name: tensors[name] for name in parameters}, dtype)
