"""`warpcortex adapt`."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_app import leave


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few conversations for pocket."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.jsonl"
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"greet: {name}"},
                {"role": "assistant", "content": f"= Hello {name}"},
            ]
        }
        for name in ("Mara", "Tom", "Ada", "Bo")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_it_writes_an_adapter_that_the_river_is_served_with(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["adapt", "pocket", "--data", str(data), "--out", "mine", "--epochs", "2", "--rank", "2"]
    assert leave(*command, "--targets", "q_proj,v_proj", "--held-out", "0.25", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["role"], found["conversations"]) == ("pocket", "river", 3)
    assert found["steps"] >= found["best"] >= 1 and len(found["held_out"]) >= 1
    assert leave("adapters", "show", "mine") == 0
    shown = capsys.readouterr().out
    assert "made for pocket" in shown and "q_proj" in shown and "k_proj" not in shown
    assert "pocket" in Path("mine/README.md").read_text()
    assert leave("ask", "Hi", "-m", "pocket", "--adapter", "river=mine") == 0


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"--role": "math"}, 0, ""),
        ({"--role": "other"}, 2, "can be one of river, recall, math, check"),
        ({"--data": "none.jsonl"}, 2, "none.jsonl cannot be read"),
        ({"--out": "data.jsonl/x"}, 1, "cannot be made"),
        ({"--targets": "nothing"}, 2, "nothing"),
        ({"--longest": "8"}, 2, "longer than 8 tokens"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(
    data: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, str], code: int, said: str
) -> None:
    given = {"--data": str(data), "--out": "mine", "--epochs": "0.1", "--rank": "1", "--targets": "q_proj", **changed}
    assert leave("adapt", "pocket", *(word for pair in given.items() for word in pair)) == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_without_peft_it_says_what_to_install(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert leave("adapt", "pocket", "--data", str(data), "--out", "mine") == 2
    assert "pip install 'warpcortex[adapt]'" in " ".join(capsys.readouterr().err.split())
    assert not Path("mine").exists()


def test_help_names_the_extra_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a help text are markup unless they are escaped."""
    assert leave("adapt", "--help") == 0
    assert "warpcortex[adapt]" in capsys.readouterr().out
