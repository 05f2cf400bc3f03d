"""The package: cheap to import, and complete where it is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import warpcortex_cli
from warpcortex_cli.profile import profiles_folder

ROOT = Path(__file__).resolve().parent.parent


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, warpcortex_cli; print('torch' in sys.modules, warpcortex_cli.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", warpcortex_cli.__version__]


def test_the_profiles_are_in_the_repository_and_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"profiles": "warpcortex_cli/profiles"}
    assert profiles_folder().is_dir()
    assert list((ROOT / "profiles").glob("*.yaml"))
