"""`warpcortex pull`: fetches a model from the Hugging Face hub into its cache."""

from __future__ import annotations

import threading
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from warpcortex_cli.cli.output import note, put, stderr_console
from warpcortex_cli.ui.safe import one_line


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="ORG/NAME[@REVISION][:FILE.gguf]", help="As in Qwen/Qwen2.5-0.5B-Instruct.", show_default=False
        ),
    ],
) -> None:
    """Download a model from the Hugging Face hub, or one GGUF file of it. Prints where it is."""
    from warpcortex_cli.prism.source import pull as fetch

    console = stderr_console()
    lock = threading.Lock()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(one_line(model, 40), total=None)

        def show(done: int, total: int) -> None:
            with lock:
                bar.update(task, completed=done, total=total or None)

        source = fetch(model, show)
    note(f"{source.name} is in the cache; use it with -m {source.name}.")
    put(str(source.path))
