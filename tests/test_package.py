"""The package: cheap to import, and complete where it is installed."""

from __future__ import annotations

import builtins
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import warpcortex_cli
from warpcortex_cli.__main__ import main
from warpcortex_cli.profile import profiles_folder

ROOT = Path(__file__).resolve().parent.parent


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, warpcortex_cli; print('torch' in sys.modules, warpcortex_cli.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", warpcortex_cli.__version__]


def test_ctrl_c_while_it_is_imported_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = builtins.__import__

    def interrupted(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "warpcortex_cli.cli.app":
            raise KeyboardInterrupt
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130 and capsys.readouterr() == ("", "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"warpcortex": "warpcortex_cli.__main__:main"}


def test_the_profiles_are_in_the_repository_and_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"profiles": "warpcortex_cli/profiles"}
    assert profiles_folder().is_dir()
    assert list((ROOT / "profiles").glob("*.yaml"))
