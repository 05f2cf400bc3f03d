"""The example of docs/adapt.md: conversations that teach pocket a role it does not know, and the profile for it.

    python -m warpcortex_cli.lab.adapt.dates --out dates

The role writes a date in words, `3 May 2021`, as `2021-05-03`. Every tenth day of the years it covers is left out of
the file; `pairs(..., held_out=True)` returns those.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

_FIRST, _LAST = date(1950, 1, 1), date(2049, 12, 31)
_FORMS: tuple[Callable[[date], str], ...] = (
    lambda d: f"{d.day} {d:%B} {d.year}",
    lambda d: f"{d:%B} {d.day}, {d.year}",
    lambda d: f"{d.day} {d:%b} {d.year}",
)
_PROFILE = """\
name: dates
description: Writes the dates of a question as numbers.
model: pocket

roles:
  - name: date
    description: Writes a date in words as year, month and day.
    starts: turn
    when: '(?i)\\bdate: (?P<task>[\\w ,]{6,40})'
    prompt: 'date: {task}'
    thought: '^= (?P<thought>\\d{4}-\\d\\d-\\d\\d)$'
    await: true
    arrives: inline
    injected_as: '{thought}'
    ends: true
    judged: false
    synapse: false
    max_tokens: 24
"""


def pairs(n: int, seed: int, held_out: bool = False) -> list[tuple[str, str]]:
    """Dates in words and as numbers, of days in the file or of those left out of it."""
    rng = random.Random(f"{seed} {held_out}")
    days = [d for d in range((_LAST - _FIRST).days) if (d % 10 == 0) == held_out]
    some = [_FIRST + timedelta(days=day) for day in rng.sample(days, n)]
    return [(rng.choice(_FORMS)(day), day.isoformat()) for day in some]


def write(folder: Path, n: int, seed: int) -> None:
    """Writes dates.jsonl and dates.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"messages": [{"role": "user", "content": words}, {"role": "assistant", "content": f"= {numbers}"}]}
        for words, numbers in pairs(n, seed)
    ]
    (folder / "dates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "dates.yaml").write_text(_PROFILE, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--n", type=int, default=1000, help="conversations")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    write(args.out, args.n, args.seed)
    print(f"dates.jsonl and dates.yaml are in {args.out}")


if __name__ == "__main__":
    main()
