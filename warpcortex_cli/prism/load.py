"""Loads the model: one set of weights, from safetensors or GGUF only. A repository's code never runs."""

from __future__ import annotations

import json
import math
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from warpcortex_cli.errors import MemoryLimitError, ModelError, UsageError
from warpcortex_cli.gguf.header import read_header
from warpcortex_cli.phases import phase
from warpcortex_cli.prism.folder import NUMBERS, stored_tensors, weights_of
from warpcortex_cli.prism.gguf_model import GgufModel
from warpcortex_cli.prism.native import BF16, usable
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.quantize import BITS, FILE, check_device
from warpcortex_cli.prism.rates import packing_pays
from warpcortex_cli.prism.source import ModelSource
from warpcortex_cli.prism.support import check_config
from warpcortex_cli.prism.weights import attach, fill_all, on_meta
from warpcortex_cli.probes.memory import available_memory
from warpcortex_cli.process import importing

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
# Phases of a start
HEADER, TOKENIZER, CODE, WEIGHTS = "what the files hold", "tokenizer", "the model's code", "weights"
_SMALL = 1 << 25  # parameters below which products do not dominate a step
_FIRST_LAYER = re.compile(r"\b(layers|blk)\.0\.")
HEADROOM = 256 * 2**20  # bytes left for activations and KV when weights are loaded
_SMALLER = "Choose a smaller model with -m, or --quantize int4 on a CPU, or --dtype bf16 elsewhere."


def choose_device(name: str) -> torch.device:
    """The device of `auto|cpu|cuda[:n]|mps`; auto takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: unknown name.
        ModelError: this machine does not have the device.
    """
    kind, _, number = name.partition(":")
    if kind == "auto" and not number:
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif kind not in ("cpu", "cuda", "mps") or (":" in name and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"there is no device {name!r}.", "Devices are auto, cpu, cuda, cuda:0, cuda:1, ... and mps.")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            found = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
            raise ModelError(
                f"{name} was asked for, and there is {found}.",
                "Use --device cpu, or see `warpcortex doctor`.",
            )
        return torch.device("cuda", int(number or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError("mps was asked for, and this machine or this torch has none.", "Use --device cpu.")
    return torch.device(kind)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of `auto|fp32|bf16|fp16`; auto is fp32 on a CPU, bf16 on a GPU that has it, else fp16."""
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise UsageError(f"there is no dtype {name!r}.", f"Dtypes are auto, {', '.join(DTYPES)}.")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def choose_quantize(source: ModelSource, options: LoadOptions) -> str:
    """The format of weights for `auto` or any other value of --quantize.

    auto is the file's own format for a GGUF file in fewer than 32 bits, which was chosen for its size. A folder stored
    in bf16 is packed in it, which is exact, if `packs_bf16` and it was measured to be faster on this machine. pocket is
    never packed, so that it starts at once everywhere.
    """
    if options.quantize != "auto":
        return options.quantize
    if source.kind == "pocket":
        return "none"
    stored = stored_values(source)
    # Kernels are compiled only if they will be used.
    if source.format == "gguf":
        return FILE if stored.types != {"F32"} and packs_bf16(options) else "none"
    packed = stored.dtype == torch.bfloat16 and not stored.of_experts and packs_bf16(options)
    return "bf16" if packed and (stored.parameters < _SMALL or _faster_packed(source)) else "none"


def _faster_packed(source: ModelSource) -> bool:
    """Whether packed bf16 weights are faster than fp32 by torch, or fp32 would not fit into memory."""
    found = {name: tensor.shape for name, tensor in stored_tensors(source).items()}
    if sum(math.prod(shape) for shape in found.values()) * 4 + HEADROOM > available_memory():
        return True
    first = [(s[0], s[1]) for name, s in sorted(found.items()) if len(s) == 2 and _FIRST_LAYER.search(name)]
    return not first or packing_pays(first, BF16)


def packs_bf16(options: LoadOptions) -> bool:
    """Whether bf16 weights can be packed and no other dtype is requested.

    Requires a CPU whose kernels can be compiled, and Linux, since they were never run elsewhere.
    """
    return (
        options.dtype == "auto" and choose_device(options.device).type == "cpu" and sys.platform == "linux" and usable()
    )


def load_prism_parts(source: ModelSource, options: LoadOptions) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads model and tokenizer, as `loading` does."""
    model, tokenizer = loading(source, options)
    return model, tokenizer.result()


def loading(source: ModelSource, options: LoadOptions) -> tuple[PreTrainedModel, Future[PreTrainedTokenizerBase]]:
    """Loads a model, in eval mode, without gradients, and its tokenizer, which another thread may still be making.

    Args:
        source: a model on this machine.
        options: with a resolved `quantize`, not auto. If it is not none, dtype auto is the files' dtype, and weights
            to be packed stay on meta until they are read.

    Raises:
        UsageError: unknown device or dtype.
        ModelError: it cannot be loaded; the message says why and what to do.
        MemoryLimitError: the weights do not fit.
    """
    target, quantize = choose_device(options.device), options.quantize
    number = choose_dtype(options.dtype, target)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if source.format == "gguf":
        return _gguf_parts(source, target, number, quantize)
    if quantize == FILE:
        raise UsageError(f"--quantize file is for GGUF files, and {source.name} is none.", "Leave --quantize out.")
    if quantize != "none":
        check_device(quantize, target)
    with phase(HEADER):
        config = _config(source)
        stored = stored_values(source)
    if options.dtype == "auto" and quantize != "none":
        packed = (stored.parameters - stored.of_experts) * (max(BITS[quantize], 8) + 1) // 8
        check_room(source.name, packed + stored.of_experts * number.itemsize, target, f"as {quantize}")
        number = stored.dtype
    else:
        check_room(source.name, stored.parameters * number.itemsize, target, f"in {name_of(number)}")
    tokenizer: Future[PreTrainedTokenizerBase] = Future()
    with phase(TOKENIZER):
        tokenizer.set_result(_tokenizer(source))
    try:
        model = _plain_model(source, config, number, target, packed=quantize != "none")
        if model is None:
            with phase(WEIGHTS):
                model = _converted_model(source, config, number).to(target)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MemoryLimitError(f"there is too little memory on {target} for {source.name}.", _SMALLER) from error
    except ModelError:
        raise
    except Exception as error:  # whatever the many parts of transformers raise: it cannot be loaded
        raise _load_error(source, error) from error
    model.eval()
    model.requires_grad_(False)
    return model, tokenizer


def _plain_model(
    source: ModelSource, config: Any, number: torch.dtype, target: torch.device, packed: bool
) -> PreTrainedModel | None:
    """A model whose files hold its parameters unchanged, or None. Weights to be packed stay on meta."""
    with importing(), phase(CODE), on_meta():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=number, attn_implementation="eager")
    model.tie_weights()
    weights = weights_of(model, source, number)
    if weights is None:
        return None
    with suppress(OSError):  # there is none
        model.generation_config = GenerationConfig.from_pretrained(source.path, local_files_only=True)
    attach(model, weights)
    with phase(WEIGHTS):
        fill_all(model, number, target, without=(nn.Linear, nn.Embedding) if packed else ())
    return model if packed else model.to(target)  # type: ignore[no-any-return]  # buffers


def _converted_model(source: ModelSource, config: Any, number: torch.dtype) -> Any:
    """A model whose files transformers converts to its parameters."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source.path, config=config, dtype=number, attn_implementation="eager", use_safetensors=True,
        trust_remote_code=False, local_files_only=True, output_loading_info=True,
    )  # fmt: skip
    model, info = loaded
    _check_complete(source, info)
    return model


def _gguf_parts(
    source: ModelSource, target: torch.device, number: torch.dtype, quantize: str
) -> tuple[PreTrainedModel, Future[PreTrainedTokenizerBase]]:
    with phase(HEADER):
        found = GgufModel(source)
        parameters = stored_values(source).parameters
    if quantize == "none":
        check_room(source.name, parameters * number.itemsize, target, f"in {name_of(number)}")
    else:
        check_device(quantize, target)
        nbytes = found.header.nbytes if quantize == FILE else parameters * (max(BITS[quantize], 8) + 1) // 8
        check_room(source.name, nbytes, target, "as in its file" if quantize == FILE else f"as {quantize}")
    with phase(CODE):
        model = found.model(found.config(), number, packed=quantize == FILE)
    # In parallel: the kernels release the GIL while they pack weights.
    beside = ThreadPoolExecutor(1)
    tokenizer = beside.submit(found.tokenizer)
    beside.shutdown(wait=False)
    try:
        with phase(WEIGHTS):
            fill_all(model, number, target, without=(nn.Linear, nn.Embedding) if quantize != "none" else ())
            if quantize == "none":
                model.to(target)  # type: ignore[arg-type]  # buffers
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MemoryLimitError(f"there is too little memory on {target} for {source.name}.", _SMALLER) from error
    model.eval()
    model.requires_grad_(False)
    return model, tokenizer


@dataclass
class Stored:
    """The contents of a model's files.

    Attributes:
        parameters: values.
        of_experts: those of experts, which are not packed.
        types: safetensors' names of their dtypes; for a GGUF file ggml's of its matrices.
    """

    parameters: int = 0
    of_experts: int = 0
    types: set[str] = field(default_factory=set)

    @property
    def dtype(self) -> torch.dtype:
        """The common dtype; fp32 if they differ or it is not in `DTYPES`."""
        return NUMBERS.get(next(iter(self.types)), torch.float32) if len(self.types) == 1 else torch.float32


def stored_values(source: ModelSource) -> Stored:
    """Read from the files' headers. Raises ModelError if one is damaged."""
    found = Stored()
    if source.format == "gguf":
        for tensor in read_header(source.path, source.name).tensors.values():
            found.parameters += tensor.values
            if len(tensor.shape) > 1:
                found.types.add(tensor.kind)
        return found
    for name, plain in stored_tensors(source).items():
        found.parameters += plain.values
        found.of_experts += plain.values * (".experts." in name)
        found.types.add(plain.kind)
    return found


def _config(source: ModelSource) -> Any:
    try:
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise _load_error(source, error) from error
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{source.name} is an encoder-decoder ({config.model_type}).",
            "Choose a decoder-only model.",
        )
    check_config(config, source.name)
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"{source.name} holds quantized weights, which are supported only as GGUF.",
            "Choose the unquantized model.",
        )
    return config


def _tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    # For some architectures AutoTokenizer builds a tokenizer of that family out of the vocabulary and passes
    # over the rest of tokenizer.json, whatever class the folder asks for (Qwen2 in transformers 5.23).
    plain = _read_json(source.path / "tokenizer_config.json").get("tokenizer_class") in _PLAIN_TOKENIZERS
    kind = PreTrainedTokenizerFast if plain and (source.path / "tokenizer.json").is_file() else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(source.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        reason = _first_line(error)
        raise ModelError(
            f"the tokenizer of {source.name} cannot be loaded: {reason}", "Copy or pull the model again."
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def name_of(dtype: torch.dtype) -> str:
    """torch's name, such as float32."""
    return str(dtype).removeprefix("torch.")


def check_room(name: str, nbytes: int, device: torch.device, how: str) -> None:
    """Refuses weights that do not fit, before the system kills the process.

    Args:
        nbytes: of the weights, at most.
        how: the format of the weights, for the message.

    Raises:
        MemoryLimitError: with what is needed and what is free.
    """
    needed = nbytes + HEADROOM
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if needed > free:
        raise MemoryLimitError(
            f"{name} needs about {needed / 2**30:.1f} GiB {how}, and {device} has {free / 2**30:.1f} GiB free.",
            _SMALLER,
        )


def _check_complete(source: ModelSource, info: Any) -> None:
    found = info if isinstance(info, dict) else info.to_dict()
    missing = sorted(found["missing_keys"])
    if missing:
        count = f"{len(missing)} of its weights are" if len(missing) > 1 else "one of its weights is"
        raise ModelError(
            f"{source.name} is incomplete: {count} missing ({missing[0]}).", "Copy or pull the model again."
        )


def _load_error(source: ModelSource, error: Exception) -> ModelError:
    text = str(error)
    if "trust_remote_code" in text:
        return ModelError(
            f"{source.name} requires trust_remote_code, which is never enabled.",
            "Choose a model that transformers knows.",
        )
    if "does not recognize this architecture" in text or "model type" in text:
        kind = _model_type(source)
        return ModelError(
            f"transformers does not know the architecture of {source.name} ({kind}).",
            "Update transformers, or choose another model.",
        )
    if "Unrecognized configuration class" in text:
        return ModelError(
            f"{source.name} ({_model_type(source)}) is not a language model that writes text.",
            "Choose a causal language model.",
        )
    return ModelError(
        f"{source.name} cannot be loaded: {_first_line(error)}",
        "Copy or pull the model again, or choose another.",
    )


def _model_type(source: ModelSource) -> str:
    return repr(_read_json(source.path / "config.json").get("model_type", "no model_type"))


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty if it is missing or not an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_line(error: BaseException) -> str:
    """An error's message up to the first line break that ends a sentence; its type if it is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    count = 1 + sum(1 for _ in takewhile(lambda line: line.endswith(":"), lines))
    return " ".join(lines[:count])[:200] or type(error).__name__
