"""The package: cheap to import, and complete where it is installed."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

import warpcortex_cli
from warpcortex_cli.__main__ import main

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    built = next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_all_files_that_are_read_at_run_time(wheel: Path) -> None:
    def below(folder: Path) -> set[str]:
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}

    assert below(wheel / "warpcortex_cli" / "profiles") == below(ROOT / "profiles") != set()
    packed = below(wheel / "warpcortex_cli")
    rooms = (("docs", ".md"), ("prism/kernels", ".h"), ("pocket/weights", ".safetensors"), ("adapters", ".safetensors"))
    for room, kind in rooms:
        there = {f"{room}/{name}" for name in below(ROOT / "warpcortex_cli" / room)}
        assert there <= packed and any(name.endswith(kind) for name in there)
    assert {"py.typed", "pocket/weights/tokenizer.json", "prism/kernels/kernels.cpp"} <= packed
    assert not (wheel / "tests").exists()


def test_what_is_installed_from_the_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    """In a folder of its own: help, a document and a profile, none of them from this repository."""
    entry = next(wheel.glob("*.dist-info")) / "entry_points.txt"
    assert "warpcortex = warpcortex_cli.__main__:main" in entry.read_text()
    env = {**os.environ, "PYTHONPATH": str(wheel), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import sys, warpcortex_cli as w; from warpcortex_cli.__main__ import main; print(w.__file__); main()"
    for arguments, words in ((["profiles", "list"], "council"), (["help", "sessions"], "session")):
        told = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path, env=env,
        ).stdout  # fmt: skip
        assert told.startswith(str(wheel)) and words in told
