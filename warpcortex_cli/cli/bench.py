"""`warpcortex bench`: many agents, measured through the engine that chat and ask run on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from warpcortex_cli.cli.output import (
    AUTO,
    BenchResultsOption,
    CompileOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    QuantizeOption,
    kept_in,
    note,
    open_prism,
    print_json,
    progress_bar,
    put,
    stderr_console,
    stdout_console,
    stopped,
)
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.probes.memory import available_memory

if TYPE_CHECKING:
    from warpcortex_cli.bench.measure import Run
    from warpcortex_cli.bench.naive import Naive
    from warpcortex_cli.bench.workload import Load
    from warpcortex_cli.prism.prism import Prism

SCHEMA_VERSION = 1

RandomWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--random-weights",
        metavar="SHAPE",
        help="A model of this shape with random weights, such as Qwen2.5-0.5B; needs no network.",
        show_default=False,
    ),
]
ContextOption = Annotated[int, typer.Option("--context", min=1, metavar="L", help="Tokens the River has read.")]
LandmarksOption = Annotated[int, typer.Option("--landmarks", min=0, metavar="K", help="Landmarks of the Synapse.")]
TailsOption = Annotated[
    Literal["model", "int8"],
    typer.Option("--tails", help="How the Streams' KV is kept: in the model's type, or in int8."),
]
TokensOption = Annotated[int, typer.Option("--tokens", min=1, metavar="T", help="Tokens each Stream writes.")]


def parse_agents(text: str) -> list[int]:
    """The counts of `1,10,100`, ascending, each once.

    Raises:
        UsageError: one of them is not a number from 1 to MOST_AGENTS.
    """
    from warpcortex_cli.bench.workload import MOST_AGENTS

    counts = set()
    for part in text.split(","):
        if not part.strip().isdecimal() or not 1 <= int(part) <= MOST_AGENTS:
            raise UsageError(
                f"--agents {text}: {part.strip() or 'nothing'!s} is not a number of agents from 1 to {MOST_AGENTS:,}.",
                "Write for example --agents 1,10,100.",
            )
        counts.add(int(part))
    return sorted(counts)


def parse_share(text: str) -> float | None:
    """The River's guaranteed share of its speed; None for auto. Raises UsageError for anything else."""
    if text == AUTO:
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(f"--river-share {text} is not auto, nor a part from 0 to below 1.", "Write for example 0.85.")
    return share


def bench(
    agents: Annotated[
        str, typer.Option("--agents", metavar="N,N", help="How many Streams, one run each.")
    ] = "1,10,100",
    tokens: TokensOption = 32,
    context: ContextOption = 1024,
    landmarks: LandmarksOption = 64,
    focus: Annotated[
        int, typer.Option("--focus", min=0, metavar="K", help="Tokens of each Stream's own focus set.")
    ] = 0,
    random_weights: RandomWeightsOption = None,
    model: ModelOption = None,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
    compiled: CompileOption = False,
    tails: TailsOption = "model",
    river_share: Annotated[
        str,
        typer.Option(
            "--river-share",
            metavar="PART|auto",
            help="The share of its speed that the River keeps. 0: no promise; auto: what a reader is promised.",
        ),
    ] = "0",
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", min=1.0, metavar="S", help="End the Streams of a run after this long.", show_default="enough"
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option("--compare", metavar="naive", help="Also measure a separate context and forward for each agent."),
    ] = None,
    soak: Annotated[
        int,
        typer.Option(
            "--soak",
            min=0,
            metavar="N",
            help="Run N Streams to their end, the largest of --agents at once, and see whether memory returns.",
            show_default=False,
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one CSV line for each run.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write a plot: .png or .svg.", show_default=False)
    ] = None,
    write_results: BenchResultsOption = False,
) -> None:
    """Measure speed and memory of many agents. Ctrl-C prints what was measured so far.

    Each run says how long it takes at most, and ends then.
    """
    from warpcortex_cli.bench.workload import Load

    counts, promise = parse_agents(agents), parse_share(river_share)
    if compare not in (None, "naive"):
        raise UsageError(f"there is nothing to compare with named {compare!r}.", "Only --compare naive is known.")
    if plot is not None:
        from warpcortex_cli.bench.plot import check_plot

        check_plot(plot)
    prism = open_any(random_weights, model, LoadOptions(device, dtype, quantize, compiled))
    if soak:
        if compare or as_csv or as_markdown or plot or promise != 0:
            raise UsageError("--soak gives only a sentence, or --json.", "Leave out the other options for results.")
        _soak(prism, Load(counts[-1], context, landmarks, tokens, tails=tails), soak, as_json)
        return
    from warpcortex_cli.bench import measure, naive, report
    from warpcortex_cli.prism.load import name_of

    loads = [Load(n, context, landmarks, tokens, promise, tails, focus) for n in counts]
    runs: list[Run] = []
    others: list[Naive] = []
    with progress_bar(stderr_console()) as show:
        try:
            for load in loads:
                runs.append(measure.run(prism, load, show, note, seconds))
                if compare:
                    show(f"{load.agents} agents, naive", 0, 1)
                    others.append(naive.run_naive(prism, load))
        except KeyboardInterrupt:
            if not runs:
                raise
            stopped("these runs were finished:")
    findings = report.findings(runs, available_memory() if prism.device.type == "cpu" else None)
    if as_json:
        document = {
            "schema_version": SCHEMA_VERSION,
            "model": prism.name,
            "device": str(prism.device),
            "dtype": name_of(prism.dtype),
            "quantize": prism.quantize,
            "runs": [{**run.as_json(), "streams_only_tokens_per_second": run.stream_tokens_per_second} for run in runs],
            "findings": findings,
        }
        if compare:
            document["naive"] = [vars(other) for other in others]
        print_json(document)
    elif as_csv:
        put(report.as_csv(runs), end="")
    elif as_markdown:
        put(report.markdown(runs))
    else:
        out = stdout_console()
        what = f"{tokens} tokens an agent, {landmarks} of {context} tokens"
        out.print(f"{prism.name} on {prism.device} ({kept_in(prism)}); {what}")
        out.print("tokens per second of the River alone, of the River and the Streams beside it, of all together:")
        out.print(_table(runs))
        for other in others:
            each = other.memory_per_agent_bytes / report.MIB
            out.print(
                f"- naive, each of {other.agents} agents with a forward and a copy of the context of its own: "
                f"{other.tokens_per_second:.1f} tokens per second, {each:.2f} MiB an agent"
            )
        for line in findings:
            out.print(f"- {line}")
        out.print(f"memory: {runs[0].memory_source}")
    if plot is not None:
        from warpcortex_cli.bench.plot import plot_speed

        plot_speed(runs, plot, prism.name)


def _soak(prism: Prism, load: Load, streams: int, as_json: bool) -> None:
    from warpcortex_cli.bench.soak import run_soak

    with progress_bar(stderr_console()) as show:
        done = run_soak(prism, load, streams, show)
    if as_json:
        found = {**vars(done), "grown_bytes": done.grown_bytes}
        print_json({"schema_version": SCHEMA_VERSION, "model": prism.name, "device": str(prism.device), "soak": found})
        return
    put(
        f"{prism.name}: {done.streams:,} Streams, {load.agents} at once, over {done.synapses:,} Synapses in "
        f"{done.seconds:.0f} s\n"
        f"{done.memory_source} before {done.memory_before_bytes / 2**20:,.1f} MiB, after "
        f"{done.memory_after_bytes / 2**20:,.1f} MiB; {done.tails_in_use} tails still in use"
    )


def open_any(random_weights: str | None, model: str | None, options: LoadOptions) -> Prism:
    """The model of --random-weights or of --model.

    Raises:
        UsageError: both were given, or there is no such shape.
        ModelError, MemoryLimitError, RunError: as in `open_prism`.
    """
    if random_weights is None:
        prism, _ = open_prism(model=model, profile=None, options=options)
        return prism
    if model is not None:
        raise UsageError("--model and --random-weights were both given.", "Give one of them.")
    from rich.text import Text

    doing = "making random weights" + (" and compiling their layers" if options.compiled else "")
    with stderr_console().status(Text(doing, style="dim")):
        from warpcortex_cli.bench.shapes import random_prism
        from warpcortex_cli.probes.memory import keep

        prism = random_prism(random_weights, options)
        keep()
        return prism


def _table(runs: list[Run]) -> Table:
    from warpcortex_cli.bench import report

    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1))  # all of it fits into 80 columns
    for head in report.HEADS:
        table.add_column("\n".join(head.replace("/", " /").rsplit(" ", 1)), justify="right", no_wrap=True)
    for run in runs:
        table.add_row(*report.cells(run))
    return table
