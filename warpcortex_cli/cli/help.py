"""`warpcortex help`: shows the package's documents in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from warpcortex_cli.errors import UsageError

_PACKAGE = Path(__file__).parent.parent


def topics() -> dict[str, Path]:
    """Documents by topic: those of `docs/`, and the README of each room that has one."""
    from warpcortex_cli.profile import profiles_folder

    found = {path.stem: path for path in (_PACKAGE / "docs").glob("*.md")}
    found |= {path.parent.name: path for path in _PACKAGE.glob("**/README.md")}
    found["profiles"] = profiles_folder() / "README.md"
    return dict(sorted(found.items()))


def help_(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", show_default=False, help="One of the list.")] = None,
) -> None:
    """Show a document: how it works, memory, profiles, the JSON of --json. Without a topic: the list."""
    known = topics()
    if topic is None:
        for name, path in known.items():
            print(f"{name:14} {_title(path)}")
        return
    if topic not in known:
        raise UsageError(f"there is no topic {topic!r}.", f"Topics are {', '.join(known)}.")
    text = known[topic].read_text(encoding="utf-8")
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text, end="")


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
