"""Results of evaluations as tables for the terminal and Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from warpcortex_cli.bench.plot import new_figure, save
from warpcortex_cli.eval.gate import SIGNALS, Summary
from warpcortex_cli.eval.synapse import Result
from warpcortex_cli.eval.thoughts import Condition, Crowd, Outcome


@dataclass(frozen=True)
class Grid:
    """A table with title, columns and rows."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [f"| {' | '.join(cells)} |" for cells in (self.heads, *self.rows)]
        return "\n".join([f"{self.title}:", "", lines[0], f"|{'---|' * len(self.heads)}", *lines[1:]])


def share(value: float, ci95: tuple[float, float]) -> str:
    """A share ± half the width of its interval."""
    return f"{value:.0%} ±{(ci95[1] - ci95[0]) / 2:.0%}"


def synapse_grids(results: Sequence[Result]) -> list[Grid]:
    """Accuracy by method and budget, one table for each context length."""
    grids = []
    for context in dict.fromkeys(r.context for r in results):
        of_it = [r for r in results if r.context == context]
        budgets = sorted({r.k for r in of_it if r.method != "full"})
        found = {(r.method, r.k): r for r in of_it}
        rows = []
        for method in dict.fromkeys(r.method for r in of_it):
            cells = [found.get((method, context if method == "full" else k)) for k in budgets or [context]]
            rows.append((method, *("" if r is None else share(r.accuracy, r.ci95) for r in cells)))
        heads = ("method", *(f"k = {k}" for k in budgets or [context]))
        grids.append(Grid(f"right answers, context of {context} tokens, n = {of_it[0].n}", heads, tuple(rows)))
    return grids


def _at_64(results: Sequence[Result]) -> tuple[list[Result], int, int]:
    """Results at the longest context and the budget nearest to 64, that context, and that budget."""
    context = max(r.context for r in results)
    of_it = [r for r in results if r.context == context]
    k = min((r.k for r in of_it if r.method != "full"), key=lambda k: abs(k - 64), default=context)
    return [r for r in of_it if r.method == "full" or r.k == k], context, k


def kinds_grid(results: Sequence[Result]) -> Grid:
    """Accuracy by kind of task, at the longest context and the budget nearest to 64."""
    of_it, context, k = _at_64(results)
    kinds = list(of_it[0].kinds)
    rows = tuple((r.method, *(share(r.kinds[kind].accuracy, r.kinds[kind].ci95) for kind in kinds)) for r in of_it)
    counts = ", ".join(f"{s.n} {kind}" for kind, s in of_it[0].kinds.items())
    return Grid(f"right answers by kind, k = {k} of {context} tokens ({counts})", ("method", *kinds), rows)


def kept_grid(results: Sequence[Result]) -> Grid:
    """A method's other figures, at the longest context and the budget nearest to 64."""
    of_it, context, k = _at_64(results)
    rows = tuple(
        (
            r.method, f"{r.kl:.3f}", f"{fmean(r.attention_error):.3f}", f"{max(r.attention_error):.3f}",
            f"{r.compression:.1%}", f"{1000 * r.seconds:.0f}",
        )
        for r in of_it if r.method != "full" or k == context
    )  # fmt: skip
    heads = ("method", "KL", "attention error", "worst layer", "left out", "ms to select")
    return Grid(f"against the full context of {context} tokens, k = {k}", heads, rows)


def gate_grid(summary: Summary) -> Grid:
    """ROC areas by signal."""
    counts = ", ".join(f"{n} {label}" for label, n in summary.counts.items())
    rows = tuple((s, f"{summary.relevance[s]:.3f}", f"{summary.correctness[s]:.3f}") for s in SIGNALS)
    return Grid(f"area under the ROC curve over {counts} thoughts", ("signal", "relevance", "correctness"), rows)


def gate_line(summary: Summary) -> str:
    return (
        f"At the threshold of {summary.threshold:g} the Gate lets {summary.recall:.0%} of relevant thoughts in; "
        f"{summary.precision:.0%} of what it lets in is relevant rather than irrelevant or garbled."
    )


def thoughts_grids(results: Sequence[Condition | Crowd]) -> list[Grid]:
    conditions = [r for r in results if isinstance(r, Condition)]
    crowds = [r for r in results if isinstance(r, Crowd)]
    grids = []
    if conditions:
        rows = tuple(
            (c.name, share(c.accuracy, c.ci95), f"{c.seconds:.2f}", str(c.tokens), f"{c.perplexity:.2f}")
            for c in conditions
        )
        heads = ("condition", "right", "seconds", "tokens", "perplexity")
        grids.append(Grid(f"right answers by condition, n = {conditions[0].n}", heads, rows))
    if crowds:
        title = f"with irrelevant thoughts beside the right one, n = {crowds[0].n}"
        lines = tuple((str(c.thoughts), share(c.accuracy, c.ci95)) for c in crowds)
        grids.append(Grid(title, ("thoughts", "right"), lines))
    return grids


def thoughts_line(results: Sequence[Condition | Crowd]) -> str:
    return "".join(
        f"Of wrong thoughts, {r.resisted:.0%} were rejected or did not get into the answer. "
        + _outcomes_line(r.outcomes)
        for r in results
        if isinstance(r, Condition) and r.resisted is not None and r.outcomes
    )


def _outcomes_line(outcomes: dict[str, Outcome]) -> str:
    """How wrong thoughts ended, and how many answers were right all the same."""
    said = {"injected": "got in", "rejected": "were rejected", "never": "came to nothing before"}
    parts = [
        f"{o.n} {said[name]} ({o.right} of these answers right, {o.misled} with the wrong result)"
        for name, o in outcomes.items()
        if o.n
    ]
    n, right = (sum(getattr(o, field) for o in outcomes.values()) for field in ("n", "right"))
    return f"Of {n}: {', '.join(parts)}; in all {right / n:.0%} of the answers are right."


def plot_accuracy(results: Sequence[Result], path: Path, name: str) -> None:
    """Right answers over the budget, at the longest context."""
    figure, axes = new_figure()
    context = max(r.context for r in results)
    for method in dict.fromkeys(r.method for r in results):
        points = sorted((r.k, r.accuracy) for r in results if r.method == method and r.context == context)
        if method == "full":
            axes.axhline(points[0][1], color="gray", linestyle="--", label=method)
        else:
            axes.plot(*zip(*points, strict=True), "o-" if method.startswith("ours") else ".-", label=method)
    axes.set(
        xscale="log", xlabel="tokens kept", ylabel="right answers", title=f"{name}, {context} tokens", ylim=(0, 1.02)
    )
    axes.legend(fontsize="x-small", ncols=2)
    save(figure, path)
