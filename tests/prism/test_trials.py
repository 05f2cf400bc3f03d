"""Trials of a model's layers are made once for the same files, kernels and code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from warpcortex_cli.prism import fused, kept, native, trials
from warpcortex_cli.prism import prism as module
from warpcortex_cli.prism.fused import fused_layers
from warpcortex_cli.prism.prism import Prism, Row
from warpcortex_cli.prism.source import ModelSource

KINDS = ["none", "int8", pytest.param("bf16", marks=pytest.mark.skipif(not native.usable(), reason="no compiler"))]


class Made(Exception):
    """A trial was made."""


@pytest.fixture
def open_again(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prism]:
    """Loads a model; raises `Made` where that takes a trial."""

    def opened(source: ModelSource, quantize: str) -> Prism:
        def forbidden(*_: object, **__: object) -> None:
            raise Made

        with monkeypatch.context() as patch:
            patch.setattr(module, "try_out", forbidden)
            patch.setattr(fused, "_tried", forbidden)
            patch.setattr(Prism, "forward", forbidden)
            return Prism.load(source, "cpu", quantize=quantize)

    return opened


@pytest.fixture
def source(model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "measured")
    return ModelSource("folder", Path(shutil.copytree(model_folder("qwen2"), tmp_path / "tiny")), "tiny")


def logits(prism: Prism) -> torch.Tensor:
    found = prism.forward([Row([5, 9, 40, 7], [0, 1, 2, 300], prism.new_tail(4), logits="all")])[0].logits
    assert found is not None
    return found


@pytest.mark.parametrize("quantize", KINDS)
@pytest.mark.parametrize("architecture", ["qwen2", "phi3", "gemma2", "gemma3"])
def test_a_second_start_reuses_the_trials(
    architecture: str,
    quantize: str,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_again: Callable[..., Prism],
) -> None:
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "measured")
    source = ModelSource("folder", model_folder(architecture), "tiny")
    with pytest.raises(Made):
        open_again(source, quantize)
    first = Prism.load(source, "cpu", quantize=quantize)
    second = open_again(source, quantize)
    assert torch.equal(logits(first), logits(second))
    decoders = [p.model.get_decoder() for p in (first, second)]
    assert fused_layers(decoders[0]) == fused_layers(decoders[1])
    for name in ("layout", "heads", "scalings", "dtype", "device", "max_context"):
        assert getattr(first, name) == getattr(second, name)
    assert first.rope.rotated == second.rope.rotated and (first._head is None) == (second._head is None)
    assert first.parameter_bytes == second.parameter_bytes


@pytest.mark.parametrize("change", ["touched", "weights", "kernels", "code", "damaged", "nonsense", "other layers"])
def test_trials_are_repeated_when_something_has_changed(
    change: str, source: ModelSource, monkeypatch: pytest.MonkeyPatch, open_again: Callable[..., Prism]
) -> None:
    Prism.load(source, "cpu", quantize="int8")
    open_again(source, "int8")
    (file,) = kept.folder().iterdir()
    weights = source.path / "model.safetensors"
    if change == "touched":
        os.utime(weights, ns=(0, 0))
    elif change == "weights":
        data = bytearray(weights.read_bytes())
        data[-3000] ^= 1
        at = weights.stat()
        weights.write_bytes(data)
        os.utime(weights, ns=(at.st_atime_ns, at.st_mtime_ns + 1))
    elif change == "kernels":
        monkeypatch.setattr(kept.library, "key", lambda: "another CPU")
    elif change == "code":
        monkeypatch.setattr(trials, "_code", lambda: "other code")
    elif change == "damaged":
        file.write_bytes(file.read_bytes()[:-5])
    else:
        value = {"nonsense": {"shape": {}, "fused": [], "head": True}, "other layers": {"shape": None}}[change]
        monkeypatch.setattr(trials, "kept", lambda kind, key: value)
    with pytest.raises(Made):
        open_again(source, "int8")
    Prism.load(source, "cpu", quantize="int8")


@pytest.mark.skipif(not native.usable(), reason="there is no compiler")
def test_layers_that_do_not_fit_are_tried_again(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Prism.load(source, "cpu", quantize="int8")
    found = trials.known

    def other(*args: object) -> object:
        held = found(*args)  # type: ignore[arg-type]
        assert held is not None
        held.fused = [layer._replace(heads=3, number=layer.number) for layer in held.fused]
        return held

    monkeypatch.setattr(trials, "known", other)
    assert torch.equal(logits(first), logits(Prism.load(source, "cpu", quantize="int8")))
