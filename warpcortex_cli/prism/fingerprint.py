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
