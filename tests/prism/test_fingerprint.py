"""The fingerprint tells weights, types and configurations apart, and is the same for the same."""

from __future__ import annotations

import copy

import torch

from warpcortex_cli.prism.fingerprint import fingerprint
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model


def test_what_changes_the_kv_changes_the_fingerprint(model_folder) -> None:  # type: ignore[no-untyped-def]
    source = resolve_model(str(model_folder("qwen2")), "auto")
    prism = Prism.load(source, device="cpu")
    own = fingerprint(prism)
    assert own == fingerprint(Prism.load(source, device="cpu")) and len(own) == 32
    assert own != fingerprint(Prism.load(source, device="cpu", dtype="bf16"))
    other = copy.deepcopy(prism)
    with torch.no_grad():
        next(iter(other.model.parameters())).view(-1)[0] += 1
    assert fingerprint(other) != own
    other = copy.deepcopy(prism)
    other.model.config.rms_norm_eps = 0.5
    assert fingerprint(other) != own
