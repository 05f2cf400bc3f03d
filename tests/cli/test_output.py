"""What the commands share: which model and profile run, and what is said about it."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from warpcortex_cli.bench import shapes
from warpcortex_cli.cli import gate, output
from warpcortex_cli.cli.app import main
from warpcortex_cli.cli.ask import ask
from warpcortex_cli.cli.chat import chat
from warpcortex_cli.cli.output import AUTO, choose, note, open_prism, print_json
from warpcortex_cli.cli.profile_vram import profile_vram
from warpcortex_cli.errors import ModelError, ProfileError, RunError, UsageError
from warpcortex_cli.prism import native
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import LARGER_MODEL


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_in_cache(cache: Path, name: str) -> None:
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / file).write_text("{}")


def chosen(model: str | None, profile: str | None) -> tuple[str, str]:
    source, settings = choose(model, profile)
    return source.name, settings.name


def test_which_model_and_profile_run(cache: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nmodel: pocket\n")
    assert chosen(None, None) == ("pocket", "pocket")
    assert chosen(None, "auto") == ("pocket", "pocket")
    assert chosen(None, "council") == ("pocket", "council")
    assert chosen(None, str(own)) == ("pocket", "own")
    put_in_cache(cache, LARGER_MODEL)
    put_in_cache(cache, "org/other")
    assert chosen(None, None) == (LARGER_MODEL, "assistant")
    assert chosen("pocket", None) == ("pocket", "pocket")
    assert chosen(None, "pocket") == ("pocket", "pocket")
    assert chosen("org/other", "pocket") == ("org/other", "pocket")
    assert chosen("org/other", None) == ("org/other", "assistant")


def test_mistakes_show_before_anything_is_loaded(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("nam: x")
    with pytest.raises(ProfileError):
        open_prism(model=None, profile=str(bad))
    with pytest.raises(UsageError):
        open_prism(model=None, profile="nothing")
    with pytest.raises(ModelError):
        open_prism(model="org/nothing", profile=None)


def test_one_dim_line_says_which_model_runs(capsys: pytest.CaptureFixture[str]) -> None:
    prism, settings = open_prism(model=None, profile=None, options=LoadOptions("cpu"))
    assert (prism.name, prism.dtype, settings.name) == ("pocket", torch.float32, "pocket")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "model pocket on cpu (float32), profile pocket. "
        f"`warpcortex pull {LARGER_MODEL}` fetches a larger one (1 GB).\n"
    )


@pytest.mark.skipif(sys.platform != "linux" or not native.usable(), reason="nothing else is taken by itself")
def test_a_model_that_is_stored_in_bf16_is_computed_with_as_it_is(
    model_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless `eval` asks, which compares with exact arithmetic."""
    folder = Path(shutil.copytree(model_folder("qwen2"), tmp_path / "tiny"))
    weights = {name: part.bfloat16() for name, part in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    command = ["bench", "-m", str(folder), "--agents", "1", "--tokens", "2", "--context", "80", "--landmarks", "16"]
    with pytest.raises(SystemExit):
        main([*command, "--json"])
    assert json.loads(capsys.readouterr().out)["quantize"] == "bf16"
    for run in (ask, chat, profile_vram, gate.calibrate, gate.show, gate.forget):
        assert inspect.signature(run).parameters["quantize"].default == AUTO
    assert open_prism(model=str(folder), profile=None, options=LoadOptions("cpu"))[0].quantize == "none"
    open_prism(model=str(folder), profile=None, options=LoadOptions("cpu", quantize=AUTO))
    assert "(float32, weights bf16)" in capsys.readouterr().err


def test_a_profile_for_instruction_models_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    open_prism(model="pocket", profile="reviewer", options=LoadOptions("cpu"))
    assert "written for instruction models" in capsys.readouterr().err


def test_notes_and_json_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    note("[bold]x[/bold]\x1b]0;title\x07 y")
    print_json({"text": "\x1b[31m\x9b é"})
    out, err = capsys.readouterr()
    assert err == "[bold]x[/bold] y\n"
    assert out.isascii()
    assert "\x1b" not in out
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))


def test_completion_of_profiles_and_devices() -> None:
    assert output._complete_profile("c") == ["council"]
    assert output._complete("auto", "cpu", "cuda")("c") == ["cpu", "cuda"]


@pytest.mark.parametrize("command", [["chat"], ["ask", "Who?"], ["bench"], ["profile-vram"]], ids=" ".join)
def test_layers_are_compiled_where_it_was_asked_for(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def stopped(_: object, options: LoadOptions) -> None:
        asked.append(options.compiled)
        raise RunError("stopped here")

    monkeypatch.setattr(Prism, "opened", stopped)
    monkeypatch.setattr(shapes, "random_prism", stopped)
    models = [["-m", "pocket"]] + [["--random-weights", "SmolLM2-135M"]] * (command[0] in ("bench", "profile-vram"))
    for model in models:
        for option in ([], ["--compile"]):
            with pytest.raises(SystemExit) as left:
                main([*command, *model, *option])
            assert left.value.code == 1
    assert asked == [False, True] * len(models)
