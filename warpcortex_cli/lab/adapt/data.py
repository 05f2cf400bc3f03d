"""Makes the training data that teaches SmolLM2's River to leave each calculation to the role that computes it exactly.

    python -m warpcortex_cli.lab.adapt.data --gsm8k ../shared/data/gsm8k_train.jsonl --out FOLDER

The trained River writes `32 + 42 =`, and the role `sum` of the profile `assistant` adds ` 74`. In the file such a
result has weight 0: it is read but not learnt. A conversation is used only if the role's trigger and calculator give
exactly its results in their places. `alone.jsonl`, the control, holds the same conversations for a River that writes
results itself. Four in ten conversations have nothing to compute; the model itself wrote their replies.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warpcortex_cli.engine.router import Router
from warpcortex_cli.engine.workers.base import picked
from warpcortex_cli.eval.questions import questions
from warpcortex_cli.lab.adapt.plain import answered
from warpcortex_cli.lab.adapt.problems import problem
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import Profile, load_profile
from warpcortex_cli.work.calculator import calculate
from warpcortex_cli.work.quantities import CalculationError

PROFILE, MODEL = "assistant", "smollm2"
Part = dict[str, Any]
_ANNOTATED = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_BEFORE = re.compile(r"[$€£]?[\d(][\d,.\s$€£%()+*/x×÷-]*=\s*[$€£]?$")
_MOST_WORDS = 40  # of a problem from GSM8K
_MOST_STEPS = 3
_FIRST_WORDS = re.compile(r"(?:\s*\S+){20}")  # of a plain reply; whole replies would take half of the training time


def in_parts(router: Router, solution: str) -> list[Part] | None:
    """A solution split into parts; the results that a tool inserts have weight 0.

    Returns:
        The parts; None if the tool would write another result, or nothing is computed.
    """
    router.reset()
    parts: list[Part] = []
    written = begun = 0  # characters read, and the start of those not yet in a part
    while written < len(solution):
        found = router.feed(solution[written])
        written += 1
        for match in found:
            try:
                text = f"{match.task} = {calculate(match.task).text}"
            except CalculationError:
                return None
            said = match.role.injected_as.format(thought=picked(match.role, text))
            if not solution.startswith(said, written) or solution[written + len(said) :][:1].isdigit():
                return None
            parts += [{"text": solution[begun:written]}, {"text": said, "weight": 0}]
            router.feed(said)
            written += len(said)
            begun = written
    if not parts:
        return None
    return [*parts, {"text": solution[begun:]}] if begun < len(solution) else parts


def of_gsm8k(path: Path) -> Iterator[tuple[str, str]]:
    """Short problems of the training set, with annotated calculations as ordinary equations."""
    for one in questions(path):
        lines, _, answer = one.answers[0].rpartition("####")
        steps = [_as_equation(line) for line in lines.strip().split("\n")]
        if len(one.text.split()) > _MOST_WORDS or len(steps) > _MOST_STEPS or any(step is None for step in steps):
            continue
        solution = " ".join(step for step in steps if step)
        last = re.findall(r"\d+(?:\.\d+)?", solution)
        if last and last[-1] == answer.strip().replace(",", ""):
            yield " ".join(one.text.split()), solution


def _as_equation(line: str) -> str | None:
    """`He has 48/2 = <<48/2=24>>24 clips.` as `He has 48 / 2 = 24 clips.`; None if it has another form."""
    found = list(_ANNOTATED.finditer(line))
    if len(found) != 1:
        return None
    expression, result = found[0][1].strip(), found[0][2].strip()
    before, after = line[: found[0].start()], line[found[0].end() :]
    there = _BEFORE.search(before)
    spaced = re.sub(r"\s*([-+*/])\s*", r" \1 ", expression).replace("$", "")
    if there is None or not after.startswith(result) or not re.fullmatch(r"[\d.]+(?: [-+*/] [\d.]+)+", spaced):
        return None
    rest = after[len(result) :]
    end = "" if rest.endswith(".") else "."
    return f"{before[: there.start()]}{spaced} = {result}{rest}{end}"


def conversations(
    profile: Profile, gsm8k: Path, plain: list[tuple[str, str, bool]], n: int, seed: int
) -> list[dict[str, Any]]:
    """`n` conversations: four in ten plain, one in thirty from GSM8K, the others our own problems."""
    rng = random.Random(seed)
    router = Router(profile.roles)
    public = [(q, parts) for q, s in of_gsm8k(gsm8k) if (parts := in_parts(router, s)) is not None]
    rng.shuffle(public)
    found = [_line(q, parts) for q, parts in public[: n // 30]]
    wanted = round(0.4 * n)
    found += [_line(q, *_begun(reply, ends)) for q, reply, ends in (plain * -(-wanted // len(plain)))[:wanted]]
    while len(found) < n:
        made = problem(rng)
        parts = in_parts(router, made.solution)
        if parts is None:
            raise AssertionError(f"no role computes {made.solution}")
        found.append(_line(made.question, parts))
    rng.shuffle(found)
    return found


def _line(question: str, reply: str | list[Part], ends: bool = True) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"messages": messages} if ends else {"messages": messages, "ends": False}


def _begun(reply: str, ends: bool) -> tuple[str, bool]:
    """The first words of a reply, and whether the reply ends with them."""
    first = _FIRST_WORDS.match(reply)
    return (first[0], False) if first and len(first[0]) < len(reply) else (reply, ends)


def alone(line: dict[str, Any]) -> dict[str, Any]:
    """The same conversation for a River that writes results itself."""
    asked, reply = line["messages"]
    text = reply["content"] if isinstance(reply["content"], str) else "".join(p["text"] for p in reply["content"])
    return {**line, "messages": [asked, {**reply, "content": text}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gsm8k", type=Path, required=True, metavar="FILE", help="its training set")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--n", type=int, default=6000, help="conversations")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    profile = load_profile(PROFILE)
    args.out.mkdir(parents=True, exist_ok=True)
    prism = Prism.opened(resolve_model(MODEL), LoadOptions(quantize="auto"))
    plain = list(
        answered(
            prism, profile, args.seed, args.out / "plain.jsonl", lambda a, b: print(f"{a}/{b} replies", flush=True)
        )
    )
    made = conversations(profile, args.gsm8k, plain, args.n, args.seed)
    for name, lines in (("tools", made), ("alone", [alone(line) for line in made])):
        (args.out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(f"{len(made)} conversations in {args.out}")


if __name__ == "__main__":
    main()
