"""Does a model know when it needs help? Compares a probe's answers with and without something to compute.

    python -m warpcortex_cli.eval.probe --problems FILE [-m MODEL] [--n 20] [--ask QUESTION] [--seed 2041]

The model starts answering word problems from a file and ordinary questions; after its first sentence the probe of a
role asks its question (`engine/probing.py`), as in a chat. An area under the ROC curve above 0.5 beats chance.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from statistics import median

from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval import ordinary
from warpcortex_cli.eval.gate import auc
from warpcortex_cli.eval.questions import questions
from warpcortex_cli.events import ProbeAnswered
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import Profile

ASK = "Is a calculation needed here? Answer yes or no."
_MOST_TOKENS = 48  # of a reply: its first sentence is enough


def probing(ask: str) -> Profile:
    """A profile with one role whose probe is asked but which never starts."""
    role = {"name": "probe", "starts": "probe", "probe": ask, "probe_threshold": 1.0, "prompt": "{task}"}
    river = {"max_tokens": _MOST_TOKENS}
    return Profile.model_validate({"name": "probe", "river": river, "roles": [role]})


def answers(prism: Prism, ask: str, asked: list[str], seed: int) -> list[float]:
    """The probability of yes after each reply's first sentence; replies without a finished sentence are left out."""
    found = []
    for text in asked:
        session = Session(prism, probing(ask), seed=seed)
        for event in session.send(text):
            if isinstance(event, ProbeAnswered):
                if event.yes is not None:
                    found.append(event.yes)
                break
        session.close()
    return found


def table(ask: str, needed: list[float], idle: list[float]) -> list[str]:
    """The distributions, and the threshold that separates them best (Youden's index)."""
    lines = [f"{ask!r}", f"{'':22}{'n':>4}{'least':>8}{'median':>8}{'most':>8}"]
    for name, some in (("something to compute", needed), ("nothing to compute", idle)):
        lines.append(f"{name:22}{len(some):4}{min(some):8.2f}{median(some):8.2f}{max(some):8.2f}")
    at = max(
        [*needed, *idle],
        key=lambda t: sum(p >= t for p in needed) / len(needed) - sum(p >= t for p in idle) / len(idle),
    )
    hits, false = sum(p >= at for p in needed) / len(needed), sum(p >= at for p in idle) / len(idle)
    lines.append(
        f"area under the ROC curve {auc(needed, idle):.2f}; from {at:.2f} on {hits:.0%} of these, {false:.0%} of those"
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, required=True, help="word problems, as JSON lines")
    parser.add_argument("-m", "--model", default="smollm2")
    parser.add_argument("--n", type=int, default=20, help="of each kind")
    parser.add_argument("--ask", default=ASK)
    parser.add_argument("--seed", type=int, default=2041)
    chosen = parser.parse_args()
    prism = Prism.load(resolve_model(chosen.model, "auto"), quantize="auto")
    some = random.Random(chosen.seed).sample([q.text for q in questions(chosen.problems)], chosen.n)
    others = [q.question for q in ordinary.questions(chosen.n, chosen.seed)]
    found = [answers(prism, chosen.ask, asked, chosen.seed) for asked in (some, others)]
    if not all(found):
        raise SystemExit("no reply had a finished sentence to ask about: raise --n, or choose another model.")
    print("\n".join(table(chosen.ask, *found)))


if __name__ == "__main__":
    main()
