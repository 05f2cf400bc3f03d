"""The maps in the docs know every module of their rooms."""

from __future__ import annotations

from pathlib import Path

import pytest

import warpcortex_cli

PACKAGE = Path(warpcortex_cli.__file__).parent


@pytest.mark.parametrize("room", ["engine", "prism", "memory", "synapse"])
def test_the_map_names_every_module_and_none_that_is_not_there(room: str) -> None:
    text = (PACKAGE / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition(f"In `{room}/`:")[2].partition("\n## ")[0].partition("\nIn `")[0]
    named = {word for word in table.split("`") if word.endswith((".py", "/"))}
    modules = {p.name for p in (PACKAGE / room).glob("*.py")} - {"__init__.py"}
    folders = {f"{p.name}/" for p in (PACKAGE / room).iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert named - {"base.py"} == modules | folders
