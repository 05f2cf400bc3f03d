"""`warpcortex eval`: what is left of the context, measured with the engine of the product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from warpcortex_cli.cli.bench import progress_bar
from warpcortex_cli.cli.output import AUTO, DeviceOption, DtypeOption, open_prism, print_json, stderr_console
from warpcortex_cli.errors import UsageError

if TYPE_CHECKING:
    from warpcortex_cli.eval.synapse import Result

app = typer.Typer(help="Measure whether landmarks keep what matters.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    pass


def numbers(option: str, text: str, least: int = 1) -> list[int]:
    """The numbers of `16,32,64`, ascending.

    Raises:
        UsageError: one of them is none, or below `least`.
    """
    found = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= least for part in found):
        raise UsageError(f"{option} {text}: these are not numbers from {least} on.", f"Write for example {option} 64.")
    return sorted({int(part) for part in found})


@app.command("synapse")
def synapse(
    n: Annotated[int, typer.Option("--n", min=1, help="Cases for each context length.")] = 60,
    k: Annotated[str, typer.Option("--k", metavar="K,K", help="Budgets in tokens.")] = "16,32,64,128,256,512",
    context: Annotated[str, typer.Option("--context", metavar="L,L", help="Context lengths.")] = "512,1024,2048,3200",
    methods: Annotated[str, typer.Option("--methods", help="Which methods; all by default.", show_default=False)] = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 2026,
    quick: Annotated[bool, typer.Option("--quick", help="Few cases, one context, three budgets.")] = False,
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL")] = "pocket",
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recall, two hops and claims over k tokens of a long context: ours beside other ways to choose them."""
    from warpcortex_cli.eval import synapse as evaluation
    from warpcortex_cli.eval.rivals import METHODS

    budgets, contexts = numbers("--k", k), numbers("--context", context, least=64)
    if quick:
        n, budgets, contexts = min(n, 20), [32, 64, 128], [1024]
    chosen = [m.strip() for m in methods.split(",")] if methods else list(METHODS)
    if unknown := [m for m in chosen if m not in METHODS]:
        raise UsageError(f"there is no method {unknown[0]!r}.", f"Methods are {', '.join(METHODS)}.")
    prism, profile = open_prism(model=model, profile="pocket", device=device, dtype=dtype)
    if contexts[-1] > prism.max_context - 600:
        raise UsageError(
            f"a context of {contexts[-1]} tokens leaves no room in the {prism.max_context} of {prism.name}.",
            "Lower --context.",
        )
    results: list[Result] = []
    console = stderr_console()
    with progress_bar(console) as show:
        try:
            for result in evaluation.run(
                prism, profile, contexts, budgets, n, seed, chosen, lambda done, total: show("asking", done, total)
            ):
                results.append(result)
        except KeyboardInterrupt:
            if not results:
                raise
            console.print("stopped; these contexts were finished:")
    if as_json:
        print_json(evaluation.as_json(results, prism.name, seed))
        return
    out = Console(markup=False, highlight=False)
    for length in contexts:
        if any(r.context == length for r in results):
            out.print(_table(results, length, budgets))
    out.print(f"n = {n} cases a context, seed {seed}; shares of right answers with half the width of their intervals")


def _table(results: list[Result], context: int, budgets: list[int]) -> Table:
    table = Table(box=None, pad_edge=False, title=f"context of {context} tokens", title_justify="left")
    table.add_column("method")
    for k in budgets:
        table.add_column(f"k = {k}", justify="right")
    found = {(r.method, r.k): r for r in results if r.context == context}
    for method in dict.fromkeys(r.method for r in results):
        row = [found.get((method, context if method == "full" else k)) for k in budgets]
        cells = ["" if r is None else f"{r.accuracy:.0%} ±{(r.ci95[1] - r.ci95[0]) / 2:.0%}" for r in row]
        table.add_row(method, *cells)
    return table
