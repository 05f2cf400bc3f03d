"""`warpcortex doctor`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.cli.test_app import leave
from warpcortex_cli.cli import doctor
from warpcortex_cli.prism import source


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_it_says_what_is_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert leave("doctor") == 0
    text = capsys.readouterr().out
    for part in (
        "torch",
        "transformers",
        "cpu",
        "free",
        "RSS",
        "pocket",
        source.LARGER_MODEL,
        "warpcortex pull",
    ):
        assert part in text
    assert "All is well." in text
    assert "hf_secret" not in text


def test_the_compiler_is_the_one_that_torch_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for compiler, said in ((sys.executable, sys.executable), ("no-such-compiler", "no-such-compiler is not there")):
        monkeypatch.setenv("CXX", compiler)
        assert leave("doctor", "--json") == 0
        [found] = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["name"] == "compiler"]
        assert found["value"].startswith(said)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert found["ok"] is True
    assert {f["section"] for f in found["findings"]} == {
        "Versions",
        "Devices",
        "Billions of multiplications a second, one core",
        "Memory",
        "Models",
        "Hugging Face",
    }


def test_what_is_missing_is_said_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(source, "_POCKET", tmp_path / "gone")
    monkeypatch.setattr(doctor, "_PACKAGES", ("no-such-package-at-all",))
    assert leave("doctor") == 1
    text = capsys.readouterr().out
    assert "pip install no-such-package-at-all" in text
    assert "Install warpcortex again" in text
    assert "Something is missing." in text


def test_a_broken_installation_is_examined_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert leave("doctor") == 1
    text = capsys.readouterr().out
    for name in ("torch", "huggingface_hub"):
        assert f"pip install --force-reinstall {name}" in text


def test_half_a_model_in_the_cache_is_pointed_out(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo = cache / "models--org--half"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    assert leave("doctor") == 0
    assert "`warpcortex pull org/half`" in capsys.readouterr().out


def test_a_start_is_shown_by_its_phases(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("doctor", "--startup", "pocket", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["model"]) == (1, "pocket")
    seconds = {row["name"]: row["seconds"] for row in found["phases"]}
    assert {"Python", "importing torch", "weights", "tokenizer", "trials of its layers", "the reply"} <= seconds.keys()
    assert min(seconds.values()) >= 0 and abs(sum(seconds.values()) - found["seconds"]) < 0.01
    assert found["tokens"] > 0 and found["weights_bytes"] > 1e6
    assert leave("doctor", "--startup", "pocket") == 0
    out = capsys.readouterr().out
    assert "the reply" in out and f"until {found['tokens']} tokens were written" in out


def test_a_start_of_no_model_is_refused() -> None:
    assert leave("doctor", "--startup", "org/nothing") == 3
