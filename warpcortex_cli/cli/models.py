"""`warpcortex models`: the models on this machine, and which can be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warpcortex_cli.cli.output import note, print_json
from warpcortex_cli.ui.panels import size
from warpcortex_cli.ui.safe import one_line

if TYPE_CHECKING:
    from warpcortex_cli.prism.catalogue import Entry


def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Look in these, too. Default: the current one.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the models on this machine: packages, the Hugging Face cache, Ollama, LM Studio, folders. Loads none."""
    from warpcortex_cli.prism.catalogue import models as found
    from warpcortex_cli.prism.source import LARGER_MODEL, PULL_LARGER

    entries = found(folders or [Path()])
    if as_json:
        print_json({"schema_version": 1, "models": [_plain(entry) for entry in entries]})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("-m", "source", "format", "size", "context", "architecture"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("size", "context") else "left")
    table.add_column("served", overflow="fold", ratio=1)
    for entry in entries:
        served = Text(entry.note or "yes") if entry.served else Text(one_line(entry.reason or "no", 200), "yellow")
        table.add_row(
            *(Text(one_line(entry.name, 200)), entry.source, entry.format, size(entry.bytes)),
            *(f"{entry.context:,}" if entry.context else "?", Text(one_line(entry.architecture, 40)), served),
        )
    Console(highlight=False, markup=False, emoji=False).print(table)
    if not any(entry.name == LARGER_MODEL for entry in entries):
        note(f"{PULL_LARGER}.")


def _plain(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "path": str(entry.path),
        "source": entry.source,
        "format": entry.format,
        "bytes": entry.bytes,
        "context": entry.context,
        "architecture": entry.architecture,
        "served": entry.served,
        "reason": entry.reason,
    }
