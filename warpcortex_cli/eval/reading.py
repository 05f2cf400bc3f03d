"""How many calculations in people's own words the calculator recognises, without a model: exact, left alone, wrong.

    python -m warpcortex_cli.eval.reading [--set first|second|third|fourth] [--n 5] [--seed 1] [--show]

Leaving a question alone costs nothing, since the River answers it; a wrong exact answer is worse than none.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction

from warpcortex_cli.eval.calculations import near, numbers_of
from warpcortex_cli.eval.held_out import FOURTH, FOURTH_NONE
from warpcortex_cli.eval.phrasings import FIRST, NONE, SECOND, THIRD, Phrasing
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.work.words import read

SETS = {"first": FIRST, "second": SECOND, "third": THIRD, "fourth": FOURTH}


@dataclass(frozen=True)
class Asked:
    """One question and its outcome: "exact", "left" or "wrong"."""

    kind: str
    text: str
    answer: Fraction | str
    read: str
    outcome: str


def asked(phrasings: Sequence[Phrasing], n: int, seed: int) -> Iterator[Asked]:
    """The outcomes of `n` draws of each phrasing."""
    for i, phrasing in enumerate(phrasings):
        for j in range(n):
            text, answer = drawn(phrasing, random.Random(f"{seed} {i} {j}"))
            found = read(text)
            outcome = "left" if found is None else "exact" if is_right(found.result, answer) else "wrong"
            yield Asked(phrasing.kind, text, answer, found.equation if found else "", outcome)


def drawn(phrasing: Phrasing, source: random.Random) -> tuple[str, Fraction | str]:
    """A question and its answer."""
    fields: dict[str, object] = {}
    for name, draw in phrasing.draws.items():
        fields[name] = draw(source, fields)
    shown = {name: f"{v:.2f}" if type(v).__name__ == "Decimal" else v for name, v in fields.items()}
    wanted = phrasing.answer.__code__.co_varnames[: phrasing.answer.__code__.co_argcount]
    return phrasing.text.format(**shown), phrasing.answer(**{name: fields[name] for name in wanted})


def is_right(result: str, answer: Fraction | str) -> bool:
    """Whether a result gives the answer: a number, a date such as 2025-02-14, a time of day, a duration, or a word."""
    if isinstance(answer, Fraction):
        said = numbers_of(result)
        return bool(said) and near(said[-1], answer)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", answer):
        day = date.fromisoformat(answer)
        return f"{day.day} {day:%B} {day.year}" in result
    if re.fullmatch(r"\d+:\d\d", answer):
        hour, minute = (int(n) for n in answer.split(":"))
        shown = [int(n) for n in re.findall(r"\d+", result)]
        return shown == [hour, minute] or ("pm" in result and shown == [hour - 12, minute])
    return answer.lower() in result.lower()


def table(found: Sequence[Asked]) -> list[str]:
    """One line per kind."""
    lines = [f"{'':12}{'n':>5}{'exact':>8}{'left':>8}{'wrong':>8}"]
    for kind in (*dict.fromkeys(a.kind for a in found), "all"):
        count = Counter(a.outcome for a in found if kind in (a.kind, "all"))
        n = count.total()
        shares = "".join(f"{count[outcome] / n:8.0%}" for outcome in ("exact", "left", "wrong"))
        low, high = interval(count["exact"], n)
        lines.append(
            f"{kind:12}{n:5}{shares}" + (f"  (95 % interval of exact {low:.0%} to {high:.0%})" * (kind == "all"))
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, default="fourth")
    parser.add_argument("--n", type=int, default=5, help="draws of the numbers of each phrasing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print what was not exact")
    chosen = parser.parse_args()
    found = list(asked(SETS[chosen.set], chosen.n, chosen.seed))
    if chosen.show:
        for a in found:
            if a.outcome != "exact":
                print(f"{a.outcome:6} {a.text!r}: {a.read or '-'}, not {a.answer}")
    print(f"{len(SETS[chosen.set])} phrasings, the {chosen.set} set, {chosen.n} draws each, seed {chosen.seed}")
    print("\n".join(table(found)))
    none = FOURTH_NONE if chosen.set == "fourth" else NONE
    started = [text for text in none if read(text) is not None]
    print(f"of {len(none)} messages with numbers and no calculation {len(started)} were taken for one")
    if chosen.show:
        print("\n".join(started))


if __name__ == "__main__":
    main()
