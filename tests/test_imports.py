"""Imports go down only: a room knows the rooms below it, and none above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import warpcortex_cli

PACKAGE = Path(warpcortex_cli.__file__).parent
# From the top; rooms of one line know nothing of each other.
STOREYS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("lab",),  # what only developers run: nothing of the product knows it
    ("cli",),
    ("api", "serve"),  # other programs: in Python, and over HTTP
    ("ui",),
    ("eval",),
    ("bench", "adapt", "swarm"),
    ("engine",),
    ("synapse",),
    ("prism",),
    ("memory",),
    ("gguf", "pocket", "probes", "work"),
    ("profile",),
    ("profile_problems",),
    ("profile_yaml",),
    ("pattern", "events", "results"),
    ("errors", "phases", "process"),
)
HEIGHT = {room: -storey for storey, rooms in enumerate(STOREYS) for room in rooms}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported(path: Path) -> set[str]:
    """Rooms that a module imports, also within functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("warpcortex_cli.")}
    return found


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def test_every_room_has_its_storey() -> None:
    assert {_room(path) for path in MODULES} == HEIGHT.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = _room(path)
    upward = {other for other in _imported(path) if other != room and HEIGHT[other] >= HEIGHT[room]}
    assert not upward, f"{room} imports {', '.join(sorted(upward))}"
