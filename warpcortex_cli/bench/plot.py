"""Plots by matplotlib, from `pip install "warpcortex[plot]"`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpcortex_cli.errors import RunError, UsageError

if TYPE_CHECKING:
    from warpcortex_cli.bench.measure import Run
    from warpcortex_cli.bench.memory import Curve

GIB = 2**30
# arXiv 2601.01298: agents, and GB in use on its 0.5B model.
PAPER = ((1, 0.93), (100, 2.22))


def check_plot(path: Path) -> None:
    """Checks that a plot can be written, before minutes are spent on its data.

    Raises:
        UsageError: the file type is unknown, its folder is missing, or matplotlib is not installed.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--plot {path}: only .png and .svg are known.", "Name the file plot.png, for example.")
    if not path.expanduser().absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no such folder.", "Make it first.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("plots need matplotlib.", 'Install it: pip install "warpcortex[plot]".') from None


def new_figure() -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def save(figure: Any, path: Path) -> None:
    """Writes a figure.

    Raises:
        RunError: it cannot be written.
    """
    try:
        figure.savefig(path.expanduser())
    except OSError as error:
        raise RunError(f"the plot could not be written to {path}: {error.strerror or error}.") from error


def plot_speed(runs: Sequence[Run], path: Path, name: str) -> None:
    """Tokens per second over the number of agents."""
    figure, axes = new_figure()
    agents = [r.agents for r in runs]
    axes.plot(agents, [r.total_tokens_per_second for r in runs], "o-", label="together")
    axes.plot(agents, [r.river_tokens_per_second for r in runs], "o-", label="River")
    axes.plot(agents, [r.river_solo_tokens_per_second for r in runs], "--", color="gray", label="River alone")
    axes.set(xscale="log", yscale="log", xlabel="agents", ylabel="tokens per second", title=name)
    axes.legend()
    save(figure, path)


def plot_memory(curve: Curve, path: Path) -> None:
    """Memory over the number of agents by parts, beside the paper's line."""
    figure, axes = new_figure()
    agents = [p.agents for p in curve.points]
    parts = list(curve.points[0].parts)
    axes.stackplot(agents, [[p.parts[part] / GIB for p in curve.points] for part in parts], labels=parts, alpha=0.8)
    axes.plot(agents, [p.measured_bytes / GIB for p in curve.points], "k.-", label=f"measured ({curve.source})")
    axes.plot([n for n, _ in PAPER], [gb * 1e9 / GIB for _, gb in PAPER], "r--", label="paper (0.5B model)")
    axes.set(xlabel="agents", ylabel="GiB", title=curve.model)
    axes.legend(loc="upper left", fontsize="small")
    save(figure, path)
