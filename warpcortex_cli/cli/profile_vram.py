"""`warpcortex profile-vram`: memory over the number of agents, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from warpcortex_cli.cli.bench import (
    ContextOption,
    LandmarksOption,
    RandomWeightsOption,
    TailsOption,
    TokensOption,
    open_any,
    parse_agents,
)
from warpcortex_cli.cli.output import (
    AUTO,
    BenchResultsOption,
    CompileOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    QuantizeOption,
    kept_in,
    print_json,
    progress_bar,
    stderr_console,
    stdout_console,
)
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.options import LoadOptions

if TYPE_CHECKING:
    from warpcortex_cli.bench.memory import Curve, Point

SCHEMA_VERSION = 1
_BAR = 30  # cells of the terminal plot
_NAMES, _FIGURE, _SOURCE = 15, 10, 24  # cells of a table: of names, of each figure, and at least of its source


def profile_vram(
    agents: Annotated[str, typer.Option("--agents", metavar="N,N", help="How many Streams.")] = "1,10,50,100",
    tokens: TokensOption = 32,
    context: ContextOption = 1024,
    landmarks: LandmarksOption = 64,
    random_weights: RandomWeightsOption = None,
    model: ModelOption = None,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
    compiled: CompileOption = False,
    tails: TailsOption = "model",
    card: Annotated[
        str | None,
        typer.Option("--card", metavar="24GB", help="Say how many agents fit on such a card.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write a plot: .png or .svg.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    write_results: BenchResultsOption = False,
) -> None:
    """Measure what agents cost in memory: on NVIDIA by NVML or the allocator, elsewhere by the resident set."""
    counts = parse_agents(agents)
    from warpcortex_cli.bench import measure
    from warpcortex_cli.bench.memory import curve_of, parse_bytes
    from warpcortex_cli.bench.workload import Load
    from warpcortex_cli.prism.load import name_of
    from warpcortex_cli.probes.memory import MemoryProbe, settle

    room = parse_bytes(card) if card is not None else None
    if card is not None and not room:
        raise UsageError(f"--card {card}: that is no size of memory.", "Write for example --card 24GB.")
    if plot is not None:
        from warpcortex_cli.bench.plot import check_plot

        check_plot(plot)
    import transformers  # noqa: F401  the program's own part of memory is read with its libraries loaded

    settle()
    program = MemoryProbe("cpu").read().bytes
    prism = open_any(random_weights, model, LoadOptions(device, dtype, quantize, compiled))
    with progress_bar(stderr_console()) as show:
        runs = [measure.run(prism, Load(n, context, landmarks, tokens, tails=tails), show) for n in counts]
    curve = curve_of(runs, prism.name, program if runs[0].memory_source == "RSS" else 0)
    fitting = curve.fits(room) if room else None
    if plot is not None:
        from warpcortex_cli.bench.plot import plot_memory

        plot_memory(curve, plot)
    if as_json:
        kind = name_of(prism.dtype)
        where = {"schema_version": SCHEMA_VERSION, "model": prism.name, "device": str(prism.device), "dtype": kind}
        print_json({**where, "quantize": prism.quantize, **curve.as_json(), "card_bytes": room, "card_agents": fitting})
        return
    out = stdout_console()
    for table in _tables(curve, f"{curve.model}, {kept_in(prism)}, MiB", out.width):
        out.print(table)
    _bars(out, curve)
    each, tail = curve.per_agent_bytes / 2**20, curve.least_bytes / 2**20
    seen = f"{each:.2f} MiB an agent" if each > 0 else "no growth was seen"
    out.print(f"measured by {curve.source}: {seen}; the tail of one has {tail:.2f} MiB")
    if fitting is not None:
        out.print(f"a card of {card} has room for about {fitting:,} agents of {context} + {tokens} tokens")


def _tables(curve: Curve, title: str, width: int) -> Iterator[Table]:
    """The points of the curve, as many side by side as fit into so many characters without a figure being cut."""
    count = max(1, (width - _NAMES - _SOURCE) // _FIGURE)
    for first in range(0, len(curve.points), count):
        yield _table(title, curve.source, curve.points[first : first + count])


def _table(title: str, measured_by: str, points: Sequence[Point]) -> Table:
    """A line for each part, a column for each number of agents, and where the figures come from."""
    from warpcortex_cli.bench.memory import SOURCES

    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("agents", no_wrap=True)
    for point in points:
        table.add_column(f"{point.agents:,}", justify="right", no_wrap=True)
    table.add_column("", style="dim", overflow="fold")
    lines = [(part, [point.parts[part] for point in points], SOURCES[part]) for part in SOURCES]
    lines.append(("measured", [point.measured_bytes for point in points], measured_by))
    lines.append(("above one River", [point.above_baseline_bytes for point in points], ""))
    for name, sizes, source in lines:
        table.add_row(name, *(f"{size / 2**20:,.1f}" for size in sizes), source)
    return table


def _bars(out: Console, curve: Curve) -> None:
    from warpcortex_cli.bench.plot import PAPER

    rows = [(f"{p.agents} agents", p.measured_bytes) for p in curve.points]
    rows += [(f"paper, {n}", int(gb * 1e9)) for n, gb in PAPER]
    most = max(size for _, size in rows)
    for name, size in rows:
        out.print(f"{name:>14} {'█' * max(1, round(_BAR * size / most)):{_BAR}} {size / 2**30:.2f} GiB")
