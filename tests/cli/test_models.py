"""`warpcortex models`: what is found, in what words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.cli.test_app import leave
from tests.gguf.files import packed_as, random_blocks, write_model
from tests.prism.test_source import fill, put_in_cache, put_in_ollama
from warpcortex_cli.prism.source import resolve_model

KEYS = ["name", "path", "source", "format", "bytes", "context", "architecture", "served", "reason"]


@pytest.fixture
def machine(
    tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, smollm2: Path
) -> Path:
    """A machine with a model in every place."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    small = here / "small.gguf"
    write_model(model_folder("qwen2"), small, packed_as("Q8_0"))
    content = small.read_bytes()
    write_model(model_folder("qwen2"), here / "other.gguf", metadata={"general.architecture": "mamba"})
    (here / "broken.gguf").write_bytes(content[:1000])
    (here / "mmproj-small.gguf").write_bytes(content)
    (here / "model").symlink_to(model_folder("llama"))
    cached = put_in_cache(tmp_path / "hub", "org/both", "tokenizer.json", "model.safetensors")
    (cached / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    (cached / "small.gguf").write_bytes(content)
    put_in_cache(tmp_path / "hub", "org/half", "config.json")
    fill(tmp_path / "ollama")
    put_in_ollama(tmp_path / "ollama", content, "registry.ollama.ai/library/small/1b", "model")
    put_in_ollama(tmp_path / "ollama", None, "registry.ollama.ai/library/gone/1b", "model", digest="sha256:" + "c" * 64)
    studio = tmp_path / ".lmstudio" / "models" / "org" / "name"
    studio.mkdir(parents=True)
    for number in (1, 2):
        (studio / f"s-0000{number}-of-00002.gguf").write_bytes(content)
    return here


def listed(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, dict[str, Any]]:
    assert leave("models", "--json", *args) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert all(list(entry) == KEYS for entry in found["models"])
    return {entry["name"]: entry for entry in found["models"]}


def test_everything_on_this_machine(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    studio = str(machine.parent / ".lmstudio" / "models" / "org" / "name" / "s-00001-of-00002.gguf")
    assert {name: (e["source"], e["format"], e["served"]) for name, e in found.items()} == {
        "pocket": ("pocket", "safetensors", True),
        "smollm2": ("package", "gguf", True),
        "org/both": ("huggingface", "safetensors", False),
        "org/both:small.gguf": ("huggingface", "gguf", True),
        "org/half": ("huggingface", "safetensors", False),
        "ollama:small:1b": ("ollama", "gguf", True),
        "ollama:gone:1b": ("ollama", "gguf", False),
        studio: ("lmstudio", "gguf", True),
        "small.gguf": ("folder", "gguf", True),
        "other.gguf": ("folder", "gguf", False),
        "broken.gguf": ("folder", "gguf", False),
        "model": ("folder", "safetensors", True),
    }
    assert all((e["reason"] is None) == e["served"] for e in found.values())
    small = found["small.gguf"]
    assert (small["context"], small["architecture"]) == (512, "qwen2")
    assert small["bytes"] == (machine / "small.gguf").stat().st_size
    assert (found["model"]["context"], found["model"]["architecture"]) == (512, "llama")
    assert found["model"]["bytes"] == (machine / "model" / "model.safetensors").stat().st_size
    assert (found["smollm2"]["context"], found["smollm2"]["bytes"]) == (8192, 98_362_432)
    for name, reason in (
        ("org/both", "encoder-decoder"),
        ("other.gguf", "architecture 'mamba'"),
        ("broken.gguf", "is damaged"),
        ("ollama:gone:1b", "is incomplete"),
    ):
        assert reason in found[name]["reason"]


def test_what_is_served_is_what_m_takes(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, entry in listed(capsys).items():
        if entry["served"]:
            assert str(resolve_model(name).path.resolve()) == str(Path(entry["path"]).resolve())


def test_another_folder(
    machine: Path, tmp_path: Path, model_folder: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    write_model(model_folder("qwen2"), other / "x.gguf")
    assert [n for n, e in listed(capsys, str(other)).items() if e["source"] == "folder"] == [str(other / "x.gguf")]
    assert leave("models", str(tmp_path / "nowhere"), "--json") == 0


def test_words_for_people(machine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (machine / "evil\x1b[31m.gguf").write_bytes(b"GGUF")
    assert leave("models") == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    for words in ("smollm2", "93.8 MiB", "8,192", "ollama:small:1b", "is damaged", "which is not supported"):
        assert words in out
    assert "warpcortex pull" in err


def test_types_that_are_unpacked_are_named(
    tmp_path: Path,
    model_folder: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gguf import GGMLQuantizationType

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_model(
        model_folder("qwen2"),
        tmp_path / "x.gguf",
        lambda values, name: (
            (random_blocks("IQ4_NL", *values.shape), GGMLQuantizationType.IQ4_NL)
            if values.ndim > 1
            else (values, GGMLQuantizationType.F32)
        ),
    )
    assert leave("models", str(tmp_path)) == 0
    assert "IQ4_NL are unpacked" in capsys.readouterr().out
