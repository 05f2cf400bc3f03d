"""`warpcortex adapters`, and --adapter of `ask`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from tests.cli.test_app import leave
from warpcortex_cli.prism import adapter_files

NOTES = "Mara keeps ropes: 47, brown, in the old mill."
QUESTION = "How many ropes does Mara have?"


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One for pocket that changes what it writes."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "here" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "pocket"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    make = torch.Generator().manual_seed(3)
    base = "base_model.model.model.layers.3.mlp.down_proj.lora_"
    sizes = {"A": (2, 512), "B": (256, 2)}
    held = {f"{base}{part}.weight": torch.randn(size, generator=make) for part, size in sizes.items()}
    save_file(held, folder / "adapter_model.safetensors")
    return folder


def test_those_in_a_folder_are_listed_and_shown(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("adapters", "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)["adapters"]
    assert [(one["name"], one["base"], one["ranks"], one["served"]) for one in found] == [
        ("mine", "pocket", [2], True),
        ("smollm2-assistant", "smollm2", [6], True),  # shipped
    ]
    assert leave("adapters", "list") == 0
    assert "mine" in capsys.readouterr().out
    assert leave("adapters", "show", "mine") == 0
    assert "down_proj in 1 layer" in capsys.readouterr().out
    assert leave("adapters", "show", "elsewhere") == 3
    assert "there is no adapter 'elsewhere'" in capsys.readouterr().err


def test_the_river_is_computed_with_the_one_that_is_given(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text(NOTES)
    asked = ["ask", QUESTION, "-m", "pocket", "--notes", "notes.txt"]
    assert leave(*asked) == 0
    plain = capsys.readouterr().out
    assert "47" in plain
    assert leave(*asked, "--adapter", "river=mine") == 0
    assert capsys.readouterr().out != plain
    assert leave(*asked, "--adapter", "math=mine") == 0  # a role that has nothing to do here
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("mine", 2, "is not NAME=FOLDER"),
        ("nobody=mine", 2, "has nothing of that name"),
        ("river=nowhere", 3, "there is no adapter 'nowhere'"),
    ],
)
def test_bad_adapters_end_with_a_sentence_and_an_exit_code(
    adapter: Path, capsys: pytest.CaptureFixture[str], given: str, code: int, said: str
) -> None:
    assert leave("ask", QUESTION, "-m", "pocket", "--adapter", given) == code
    found = capsys.readouterr()
    assert said in found.err and "Traceback" not in found.err and not found.out


def test_those_inside_the_package_are_found_by_their_name(
    adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(adapter_files, "SHIPPED", adapter.parent)
    monkeypatch.chdir(tmp_path)
    assert leave("adapters", "list", "--json") == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["adapters"]] == ["mine"]
    assert leave("adapters", "show", "mine") == 0
    assert "made for pocket" in capsys.readouterr().out
