"""`warpcortex profiles`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.test_app import leave
from warpcortex_cli.profile import load_profile, shipped_profiles


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("profiles", "list") == 0
    text = capsys.readouterr().out
    for name in shipped_profiles():
        assert name in text
    assert leave("profiles", "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in listed] == shipped_profiles()
    assert all(Path(p["file"]).is_file() for p in listed)


def test_show_prints_a_file_that_can_be_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in shipped_profiles():
        assert leave("profiles", "show", name) == 0
        copy = tmp_path / f"{name}.yaml"
        copy.write_text(capsys.readouterr().out)
        assert load_profile(str(copy)) == load_profile(name)


def test_show_is_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"name: \x1b]0;owned\x07x\n")
    assert leave("profiles", "show", str(file)) == 0
    assert capsys.readouterr().out == "name: x\n"
    file.write_bytes(b"\xff")
    assert leave("profiles", "show", str(file)) == 2
    assert leave("profiles", "show", "nothing") == 2


def test_validate_reports_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\nroles:\n  - name: a\n    trigger: '[MATH'\n  - name: b\n")
    assert leave("profiles", "validate", "pocket", str(bad), "council") == 2
    out, err = capsys.readouterr()
    assert out == "pocket: valid, profile pocket with 3 roles\ncouncil: valid, profile council with 3 roles\n"
    lines = err.splitlines()
    assert lines[0] == "warpcortex: the profile has 2 mistakes:"
    assert lines[1].startswith(f"{bad}:4:15: roles[0].trigger: missing ]")
    assert lines[2].startswith(f"{bad}:5: roles[1].trigger is missing; expected")
    assert leave("profiles", "validate", "pocket") == 0


def test_the_schema_fits_the_shipped_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("profiles", "schema") == 0
    schema = json.loads(capsys.readouterr().out)
    for name in shipped_profiles():
        assert leave("profiles", "show", name) == 0
        assert set(yaml.safe_load(capsys.readouterr().out)) <= set(schema["properties"])
