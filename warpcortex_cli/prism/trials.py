"""Keeps the results of a model's trials for the next start.

They depend only on the weights, the configuration, the machine's kernels and the code. For SmolLM2 the trials take a
tenth of a second, for a larger model as long as three steps. Results are kept for files that have not changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from warpcortex_cli.gguf.header import read_header
from warpcortex_cli.prism import fused, rope, stack, support
from warpcortex_cli.prism.fingerprint import of_model
from warpcortex_cli.prism.fused import Fused
from warpcortex_cli.prism.kept import Key, keep, kept, machine
from warpcortex_cli.prism.source import ModelSource, weight_files
from warpcortex_cli.prism.support import Shape

_KIND = "trials"


@dataclass
class Trials:
    """What was found. `head`: whether logits are what the head gives; `stack`: whether a decoder is run in one call."""

    shape: Shape
    fused: list[Fused]
    head: bool
    stack: bool


def files_of(source: ModelSource) -> list[list[object]]:
    """A model's files, with what shows whether they have changed."""
    if source.format == "gguf":
        paths = sorted({tensor.path for tensor in read_header(source.path, source.name).tensors.values()})
    else:
        paths = [source.path / "config.json", *weight_files(source.path, source.name)]
    found: list[list[object]] = []
    for path in paths:
        at = path.stat()
        found.append([str(path), at.st_size, at.st_mtime_ns, at.st_ino])
    return found


def key_of(model: PreTrainedModel, files: Sequence[Sequence[object]], quantize: str) -> Key:
    """What they depend on. Of the model as it is before its layers are exchanged."""
    return {"files": files, "model": of_model(model), "quantize": quantize, "code": _code(), **machine()}


def known(key: Key, decoder: torch.nn.Module, config: Any) -> Trials | None:
    """The kept results; None if there are none, or they do not fit the model."""
    try:
        held: Any = kept(_KIND, key)
        shape = Shape.restored(held["shape"], decoder, config)
        return Trials(shape, [Fused(*layer) for layer in held["fused"]], bool(held["head"]), bool(held["stack"]))
    except (TypeError, ValueError, KeyError, AttributeError, LookupError):
        return None


def remember(key: Key, trials: Trials) -> None:
    found = {"shape": trials.shape.held(), "fused": [list(f) for f in trials.fused]}
    keep(_KIND, key, {**found, "head": trials.head, "stack": trials.stack})


@cache
def _code() -> str:
    """A hash of the code of the trials, which may change without its version."""
    text = b"".join(Path(str(module.__file__)).read_bytes() for module in (fused, rope, stack, support))
    return hashlib.sha256(text).hexdigest()
