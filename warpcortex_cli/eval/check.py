"""Does a profile help a model? Twenty questions, with it and with the River alone, in about a minute.

Ten calculations in ordinary words and ten ordinary questions: a profile for real models must improve the former and
leave the latter alone. Twenty questions show only large differences; `eval tasks` shows more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from warpcortex_cli.eval import tasks
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

QUESTIONS = 10  # of each kind
_LEAST_GAIN = 3  # more right answers than without; of 20, fewer may be chance
_MOST_TOKENS = 64  # of a reply, so that it takes a minute


@dataclass(frozen=True)
class Check:
    """The result of twenty questions.

    Attributes:
        right_off, right_on: right answers of the River alone, and with the profile.
        helped, harmed: questions right only with it, and only without.
        started, needless: Streams, and those of them that had nothing to do or did not reach the River.
        verdict: "helps", "no difference" or "in the way".
    """

    questions: int
    right_off: int
    right_on: int
    helped: int
    harmed: int
    started: int
    needless: int
    seconds: float
    verdict: str

    @property
    def sentence(self) -> str:
        """The result as a sentence."""
        return {
            "helps": "It helps this model.",
            "no difference": "It makes no difference that shows in twenty questions.",
            "in the way": "It gets in this model's way.",
        }[self.verdict]


def check(
    prism: Prism, profile: Profile, seed: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Check:
    """Asks the questions, first without the profile's prompt, examples and roles, then with all of them."""
    most = min(profile.river.max_tokens, _MOST_TOKENS)
    profile = profile.model_copy(update={"river": profile.river.model_copy(update={"max_tokens": most})})
    items = [*tasks.built_in("calculations", QUESTIONS, seed), *tasks.built_in("ordinary", QUESTIONS, seed)]
    asker = tasks.Asker(prism, seed)
    began = time.perf_counter()
    replies: dict[str, list[tasks.Reply]] = {}
    for i, condition in enumerate(("river", "profile")):
        settings = tasks.under(condition, profile)
        replies[condition] = []
        for j, item in enumerate(items):
            replies[condition].append(asker.ask(settings, item.notes, item.question))
            progress(i * len(items) + j + 1, 2 * len(items))
    off, on = (
        [bool(item.scores(reply.text)["accuracy"]) for item, reply in zip(items, replies[name], strict=True)]
        for name in ("river", "profile")
    )
    needless = sum(tasks.needless(item, reply) for item, reply in zip(items, replies["profile"], strict=True))
    helped = sum(b and not a for a, b in zip(off, on, strict=True))
    harmed = sum(a and not b for a, b in zip(off, on, strict=True))
    return Check(
        len(items), sum(off), sum(on), helped, harmed, sum(r.started for r in replies["profile"]), needless,
        time.perf_counter() - began, verdict(helped, harmed, needless),
    )  # fmt: skip


def verdict(helped: int, harmed: int, needless: int) -> str:
    """The verdict. More than one needless Stream in twenty questions is in the way."""
    if harmed > helped or (helped - harmed < _LEAST_GAIN and needless > 1):
        return "in the way"
    return "helps" if helped - harmed >= _LEAST_GAIN else "no difference"


def as_json(found: Check, model: str, profile: str, seed: int) -> dict[str, Any]:
    return {"schema_version": 1, "model": model, "profile": profile, "seed": seed, **asdict(found)}
