"""Identifies weights by a few of them, so that results and files of one model are not used for another."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from warpcortex_cli.prism.prism import Prism

_VOLATILE = (
    "_name_or_path",
    "transformers_version",
    "architectures",
)  # these do not identify a model
_SAMPLES = 256  # samples of each parameter, evenly spread


def fingerprint(prism: Prism) -> str:
    """32 hexadecimal digits over the configuration, the chat format, and weights' names, shapes, types and samples."""
    return of_model(prism.model, [prism.chat.user_open(), prism.chat.user_close(), prism.chat.assistant_close()])


@torch.inference_mode()
def of_model(model: PreTrainedModel, chat: Sequence[object] = ()) -> str:
    """The same of a model, with what else is told."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in _VOLATILE}
    digest = hashlib.sha256(json.dumps([config, list(chat)], sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLES)
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(flat[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


@torch.inference_mode()
def base_mark(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that are the same for a model's weights as files of any format hold them.

    They are over its sizes and its last norm in bf16, which formats of few bits keep, and which differs between a model
    and another one that was trained further.
    """
    config, norm = model.config, getattr(model.get_decoder(), "norm", None)
    sizes = [config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.vocab_size]
    digest = hashlib.sha256(json.dumps(sizes).encode())
    if norm is not None:
        digest.update(norm.weight.to(torch.bfloat16).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
