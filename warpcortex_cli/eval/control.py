"""The control of `eval.pocket --control FOLDER`: a pocket that writes the Streams' steps in its own text.

It is trained from the same weights on the same questions for as many steps
(`python -m warpcortex_cli.lab.pocket.train --from WEIGHTS --inline --out FOLDER`; with Streams without `--inline`).
Where a Stream reads a focus set that the engine chose, the control goes through all notes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from warpcortex_cli.eval.pocket import Asked, Case, ask, is_right
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

CONDITIONS = ("streams", "inline")
_LONGEST = 2048  # tokens of an answer with all its steps


@dataclass(frozen=True)
class Cell:
    """One condition over `n` questions of a kind.

    Attributes:
        tokens: mean number written, by the River and its Streams.
        river_tokens: mean number written by the River.
        seconds: mean delay to the end of the answer, after the notes were read.
    """

    kind: str
    condition: str
    right: int
    n: int
    tokens: float
    river_tokens: float
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.right / self.n


def inline_profile(profile: Profile) -> Profile:
    """The profile with room for the steps in the River's own text and window."""
    river = profile.river.model_copy(update={"max_tokens": _LONGEST})
    return profile.with_whole_context().model_copy(update={"river": river})


def run(
    streams: Prism,
    inline: Prism,
    profile: Profile,
    cases: Sequence[Case],
    progress: Callable[[], None] = lambda: None,
) -> list[Cell]:
    """Both pockets over the same cases, in turn for each case."""
    found: dict[tuple[str, str], list[tuple[bool, Asked]]] = {}
    own = inline_profile(profile)
    for case in cases:
        for condition in CONDITIONS:
            if condition == "streams":
                asked = ask(streams, profile, case, streams=True)
                right = is_right(case, asked.text)
            else:
                asked = ask(inline, own, case, streams=False)
                right = judged(case, asked.text)
            found.setdefault((case.kind, condition), []).append((right, asked))
            progress()
    return [_cell(kind, condition, of) for (kind, condition), of in found.items()]


def judged(case: Case, answer: str) -> bool:
    """Whether an inline answer is right. It is the last line, below the steps."""
    return is_right(case, answer.strip().rsplit("\n", 1)[-1])


def _cell(kind: str, condition: str, of: list[tuple[bool, Asked]]) -> Cell:
    asked = [a for _, a in of]
    return Cell(
        kind,
        condition,
        right=sum(right for right, _ in of),
        n=len(of),
        tokens=fmean(a.river_tokens + sum(end.tokens for end in a.ends) for a in asked),
        river_tokens=fmean(a.river_tokens for a in asked),
        seconds=fmean(a.seconds for a in asked),
    )


def table(cells: list[Cell]) -> list[str]:
    """Lines: a row for each kind, accuracy, tokens and delay of both."""
    lines = [
        f"{'':12}{'right':>19}{'tokens written':>19}{'of these River':>19}{'seconds':>19}",
        f"{'':12}" + 4 * f"{'Streams':>10}{'inline':>9}",
    ]
    for kind in (*dict.fromkeys(c.kind for c in cells), "all"):
        of = [_joined([c for c in cells if c.condition == name and kind in (c.kind, "all")]) for name in CONDITIONS]
        shown = [(f"{c.accuracy:.1%}", f"{c.tokens:.0f}", f"{c.river_tokens:.0f}", f"{c.seconds:.2f}") for c in of]
        lines.append(f"{kind:12}" + "".join(f"{a:>10}{b:>9}" for a, b in zip(*shown, strict=True)))
    return lines


def _joined(cells: list[Cell]) -> Cell:
    """Several kinds as one."""
    n = sum(c.n for c in cells)
    return Cell(
        "all",
        cells[0].condition,
        right=sum(c.right for c in cells),
        n=n,
        tokens=sum(c.n * c.tokens for c in cells) / n,
        river_tokens=sum(c.n * c.river_tokens for c in cells) / n,
        seconds=sum(c.n * c.seconds for c in cells) / n,
    )


def as_json(cells: list[Cell]) -> list[dict[str, Any]]:
    return [{**vars(c), "accuracy": c.accuracy, "ci95": interval(c.right, c.n)} for c in cells]
