"""`warpcortex pull`: what it says; the download itself is tested with the model sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_app import leave
from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism import source
from warpcortex_cli.prism.source import ModelSource, Progress


def test_the_folder_is_on_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fetch(spec: str, progress: Progress) -> ModelSource:
        progress(1, 0)
        progress(5, 10)
        return ModelSource("hub", Path("/cache/it"), spec)

    monkeypatch.setattr(source, "pull", fetch)
    assert leave("pull", "org/name") == 0
    out, err = capsys.readouterr()
    assert out == "/cache/it\n"
    assert err == "org/name is in the cache; use it with -m org/name.\n"


def test_failure_is_exit_code_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fetch(spec: str, progress: Progress) -> ModelSource:
        raise ModelError("the hub is away.", "Wait.")

    monkeypatch.setattr(source, "pull", fetch)
    assert leave("pull", "org/name") == 3
    assert capsys.readouterr().err == "warpcortex: the hub is away.\nWait.\n"


def test_only_names_of_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("pull", "a b/c") == 2
    assert "not a name on the Hugging Face hub" in capsys.readouterr().err
    assert leave("pull", "pocket") == 2
    assert "nothing has to be fetched" in capsys.readouterr().err
