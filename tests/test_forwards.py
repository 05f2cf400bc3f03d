"""Who runs the model: the step, and the few whose results a step needs before it can be planned."""

from __future__ import annotations

import ast
from pathlib import Path

import warpcortex_cli

PACKAGE = Path(warpcortex_cli.__file__).parent
MEASURING = {"lab", "eval", "bench"}  # rooms that look at the model itself, beside no conversation
CALLERS = {
    "engine/stepper.py": {"Stepper._forwarded", "Stepper._alone"},
    "engine/river.py": {"River.queries_of"},
    "engine/instructions.py": {"Instructions._prefill"},
    "engine/past.py": {"Past._computed"},
    "engine/archive.py": {"Archive._fill.compute"},
    "engine/heads.py": {"read"},
    "prism/prism.py": {"Prism.__init__", "Prism._gives_the_same", "Prism._found_head"},
}


class _Calls(ast.NodeVisitor):
    """Names of the functions in which `.forward(...)` is called."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._within: list[str] = []

    def _enter(self, node: ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) -> None:
        self._within.append(node.name)
        self.generic_visit(node)
        self._within.pop()

    visit_FunctionDef = visit_ClassDef = visit_AsyncFunctionDef = _enter

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr == "forward":
            self.found.add(".".join(self._within))
        self.generic_visit(node)


def callers() -> dict[str, set[str]]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE)
        if module.parts[0] in MEASURING:
            continue
        calls = _Calls()
        calls.visit(ast.parse(path.read_text(encoding="utf-8")))
        if calls.found:
            found[module.as_posix()] = calls.found
    return found


def test_nobody_else_runs_the_model() -> None:
    """A new caller is a row of the Stepper's step, or has a reason that stands in docs/architecture.md."""
    assert callers() == CALLERS


def test_each_forward_beside_a_step_has_its_reason_in_the_documents() -> None:
    said = (PACKAGE / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = said.split("### Forwards outside of a step")[1].split("\n## ")[0]
    assert all(f"`{module}`" in section for module in CALLERS if module != "engine/stepper.py")
