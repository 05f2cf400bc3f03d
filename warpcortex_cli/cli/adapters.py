"""`warpcortex adapters`: the LoRA adapters on this machine, and what one changes. No model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from warpcortex_cli.cli.output import print_json, put, stdout_console
from warpcortex_cli.ui.panels import size
from warpcortex_cli.ui.safe import one_line

if TYPE_CHECKING:
    from warpcortex_cli.prism.adapter_files import Described

app = typer.Typer(no_args_is_help=True, help="LoRA adapters: which there are, and what they change.")


@app.command("list")
def list_adapters(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Look in these. Default: the current one.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the adapters in folders and in the Hugging Face cache."""
    from warpcortex_cli.prism.adapter_files import adapters

    found = adapters(folders or [Path()])
    if as_json:
        print_json({"schema_version": 1, "adapters": [_plain(one) for one in found]})
        return
    if not found:
        put("there are no adapters here")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("--adapter NAME=", "rank", "size", "made for"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("rank", "size") else "left")
    table.add_column("served", overflow="fold", ratio=1)
    for one in found:
        served = Text("yes") if one.reason is None else Text(one_line(one.reason, 200), "yellow")
        name, base = Text(one_line(one.name, 200)), Text(one_line(one.base or "?", 60))
        table.add_row(name, ", ".join(map(str, one.ranks)), size(one.bytes), base, served)
    stdout_console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder, or org/name.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what an adapter changes: which layers, with what rank, for which model."""
    from warpcortex_cli.prism.adapter_files import described, find_adapter

    one = described(find_adapter(name), name)
    if as_json:
        print_json({"schema_version": 1, **_plain(one)})
        return
    put(f"{one_line(one.name)}: made for {one_line(one.base or 'a model that it does not name')}")
    put(f"ranks {', '.join(map(str, one.ranks))}; {size(one.bytes)}; {len(one.modules)} linear layers:")
    for kind, count in sorted(one.kinds.items()):
        put(f"  {one_line(kind)} in {count} layer{'s' * (count != 1)}")


def _plain(one: Described) -> dict[str, Any]:
    return {
        "name": one.name,
        "path": str(one.path),
        "base": one.base,
        "bytes": one.bytes,
        "ranks": one.ranks,
        "modules": one.modules,
        "served": one.reason is None,
        "reason": one.reason,
    }
