"""The map of the engine in the docs knows every room of it."""

from __future__ import annotations

from pathlib import Path

import warpcortex_cli

PACKAGE = Path(warpcortex_cli.__file__).parent


def test_the_map_names_every_module_and_none_that_is_not_there() -> None:
    text = (PACKAGE / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("In `engine/`:")[2].partition("\n## ")[0]
    named = {word for word in table.split("`") if word.endswith((".py", "/"))}
    there = {p.name for p in (PACKAGE / "engine").glob("*.py")} - {"__init__.py"} | {"workers/"}
    assert named - {"base.py"} == there
