"""Public tasks and everyday questions under several conditions, through the engine of the product.

Conditions (the names are a contract):
    river         the River alone, without the profile's prompt and examples.
    fewshot       the River alone, with them.
    model-streams Streams that write with the model, no tools.
    tools         exact tools only; their results arrive as asides.
    tools-inline  exact tools only; their results arrive as the profile says.
    pasted        the thoughts of `tools-inline` as text before the question, no Streams.
    full          as `fewshot`, with replies of at most 64 tokens, so that more of long notes fits the model's context.
    oracle        the words of a perfect helper as text before the question: the right paragraph, the right result.
    profile       the whole profile as it is: its tools, Streams that write with the model, its Gate.
    gate-off      the same, and the Gate lets every thought in.
    gate-all      the same, and the Gate judges every thought, those of exact tools, too.

Answers can be appended to a file as they come; a stopped run resumes from it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval import calculations, ordinary, squad
from warpcortex_cli.eval.asking import Asker, Reply
from warpcortex_cli.eval.questions import Question, questions
from warpcortex_cli.eval.report import Grid, share
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import GateSettings, Profile, RiverSettings, Role

CONDITIONS = ("river", "fewshot", "model-streams", "tools", "tools-inline", "pasted", "full", "oracle",
              "profile", "gate-off", "gate-all")  # fmt: skip
BUILT_IN = ("calculations", "ordinary")
_BASELINE = "fewshot"
_FEW_WORDS = "Answer with a few words from the text."
_RESAMPLED = 2000
_SHORT = 64  # tokens of a reply that still answers a question on a document


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        notes: loaded before it; consecutive questions with equal notes share one prefill of them.
        scores: functions of a reply, by name, including "accuracy".
        hint: the words of a perfect helper, for `oracle`; for a document they replace the notes.
        idle: whether there is nothing to compute or look up.
        answers: those that a thought may hold, of a question on a document.
    """

    question: str
    scores: Callable[[str], dict[str, float]]
    notes: str = ""
    hint: str = ""
    idle: bool = False
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One task under one condition.

    Attributes:
        started, injected: Streams. used: injected thoughts whose last number, or last word, is in the answer.
        needless: started Streams that never reached the River, and all those of idle questions.
        difference: accuracy minus that of the baseline on the same questions, with its 95 % interval by resampling.
        scores: means of other scores, such as F1; `in thoughts`: how often the thoughts hold the answer.
        context: mean number of characters of the notes.
    """

    task: str
    condition: str
    accuracy: float
    ci95: tuple[float, float]
    n: int
    started: int
    injected: int
    used: int
    needless: int
    seconds: float
    first: float
    tokens: int
    difference: dict[str, Any] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    context: int = 0


# -- questions -------------------------------------------------------------------------------------------------------


def _numeric(target: Fraction) -> Callable[[str], dict[str, float]]:
    def scores(reply: str) -> dict[str, float]:
        said = calculations.last_number(reply)
        return {"accuracy": float(said is not None and calculations.near(said, target))}

    return scores


def _problem(problem: Question) -> Item:
    target = problem.answers[0].rpartition("####")[2].replace(",", "").strip()
    try:
        value = Fraction(target)
    except ValueError as error:
        said = f"{problem.task}: {target[:40]!r} is not a number, in {problem.text[:60]!r}."
        raise UsageError(said, "Name a file of word problems.") from error
    return Item(problem.text, _numeric(value), hint=f"The answer is {target.removesuffix('.0')}.")


def _of_calculations(n: int, seed: int) -> list[Item]:
    def item(case: calculations.Calculation) -> Item:
        asked = f"{case.page}\n\n{case.question}" if case.page else case.question

        def scores(reply: str) -> dict[str, float]:
            right = float(calculations.is_right(case, reply))
            asked_for = {} if case.page else {"in the question": right}
            held = {"held-out": right} if case.held_out else {}
            return {"accuracy": right, **asked_for, case.kind: right, **held}

        value = case.value if not isinstance(case.value, Fraction) else float(case.value)
        return Item(asked, scores, hint=f"The result is {value}.")

    return [item(case) for case in calculations.calculations(n, seed)]


def _of_ordinary(n: int, seed: int) -> list[Item]:
    def item(case: ordinary.Ordinary) -> Item:
        return Item(case.question, lambda reply: {"accuracy": float(ordinary.is_right(case, reply))}, idle=True)

    return [item(case) for case in ordinary.questions(n, seed)]


def built_in(name: str, n: int, seed: int) -> list[Item]:
    """The built-in questions."""
    return _of_calculations(n, seed) if name == "calculations" else _of_ordinary(n, seed)


def needless(item: Item, reply: Reply) -> int:
    """Streams that did not reach the River; all of them if the question is idle."""
    return reply.started if item.idle else reply.started - len(reply.thoughts)


def _on_document(text: str, asked: Question) -> Item:
    def scores(reply: str) -> dict[str, float]:
        line = reply.strip().split("\n")[0]
        return {
            "accuracy": squad.holds(reply, asked.answers),  # models answer in sentences, so few match exactly
            "exact match": squad.exact_match(line, asked.answers),
            "f1": squad.f1(line, asked.answers),
        }

    return Item(f"{asked.text}\n{_FEW_WORDS}", scores, text, asked.notes, answers=asked.answers)


def read_tasks(
    folder: Path,
    names: Sequence[str],
    lengths: Sequence[int],
    n: int,
    seed: int,
    count: Callable[[str], int],
    half: str = "",
) -> dict[str, list[Item]]:
    """The questions of each task: files of a folder, by name without extension, and built-in tasks.

    Args:
        lengths: of documents, in tokens.
        half: as in `squad.documents`.

    Raises:
        UsageError: there is no such task, or its file cannot be read.
    """
    tasks: dict[str, list[Item]] = {}
    for name in names:
        if name in BUILT_IN:
            tasks[name] = built_in(name, n, seed)
            continue
        path = next((p for p in (folder / f"{name}.jsonl", folder / f"{name}.json") if p.is_file()), None)
        if path is None:
            known = sorted({p.stem for p in folder.glob("*.json*")} | set(BUILT_IN))
            raise UsageError(f"there is no task {name!r} in {folder}.", f"Tasks there are {', '.join(known)}.")
        found = questions(path)
        if path.suffix == ".json":
            for length in lengths:
                documents = squad.documents(found, length, n, seed, count, half)
                tasks[f"{name}@{length}"] = [_on_document(text, one) for text, some in documents for one in some]
        else:
            some = random.Random(f"{name} {seed}").sample(range(len(found)), min(n, len(found)))
            tasks[name] = [_problem(found[i]) for i in sorted(some)]
    return tasks


# -- conditions ------------------------------------------------------------------------------------------------------


def under(condition: str, profile: Profile) -> Profile:
    """The profile under a condition."""
    tools = tuple(role for role in profile.roles if role.work != "model")
    river, gate = profile.river, profile.gate
    roles: tuple[Role, ...] = ()
    match condition:
        case "river":
            river = RiverSettings(**{**dict(river), "prompt": "", "examples": ()})
        case "full":
            river = river.model_copy(update={"max_tokens": min(_SHORT, river.max_tokens)})
        case "model-streams":
            roles = tuple(role for role in profile.roles if role.work == "model")
        case "tools":
            roles = tuple(_beside(role) for role in tools)
        case "tools-inline":
            roles = tools
        case "profile" | "gate-off":
            roles = profile.roles
            gate = gate if condition == "profile" else GateSettings(mode="off")
        case "gate-all":
            roles = tuple(_beside(role).model_copy(update={"judged": True}) for role in profile.roles)
    return profile.model_copy(update={"river": river, "roles": roles, "gate": gate})


def _beside(role: Role) -> Role:
    """The role with thoughts that arrive as asides."""
    aside = {"arrives": "aside", "injected_as": "[Ref: {thought}]", "thought": None}
    return role.model_copy(update=aside if role.arrives != "aside" else {})


def run(
    prism: Prism,
    profile: Profile,
    tasks: dict[str, list[Item]],
    conditions: Sequence[str],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    keep: Path | None = None,
) -> Iterator[Result]:
    """A result for each task and condition, task by task."""
    asker = Asker(prism, seed, keep)
    total = sum(len(items) for items in tasks.values()) * len(conditions)
    done = 0
    for task, items in tasks.items():
        right: dict[str, list[float]] = {}
        replies: dict[str, list[Reply]] = {condition: [] for condition in conditions}
        for _, over in groupby(items, lambda item: item.notes):  # all conditions share one reading of a document
            some = list(over)
            for condition in conditions:
                settings = under(condition, profile)
                for item in some:
                    replies[condition].append(_answer(asker, profile, settings, condition, item))
                    done += 1
                    progress(done, total)
                if len(replies[condition]) == len(items):
                    right[condition] = [
                        item.scores(r.text)["accuracy"] for item, r in zip(items, replies[condition], strict=True)
                    ]
                    yield _result(task, condition, items, replies[condition], right)


def _answer(asker: Asker, profile: Profile, settings: Profile, condition: str, item: Item) -> Reply:
    notes, question = item.notes, item.question
    if condition == "oracle" and item.hint:
        if notes:
            notes = item.hint
        else:
            question = f"{item.hint}\n\n{question}"
    elif condition == "pasted":
        thoughts = asker.ask(under("tools-inline", profile), notes, question).thoughts
        question = "\n".join([*thoughts, "", question]) if thoughts else question
    return asker.ask(settings, notes, question)


def _result(
    task: str,
    condition: str,
    items: Sequence[Item],
    replies: Sequence[Reply],
    right: dict[str, list[float]],
) -> Result:
    n, mine = len(items), right[condition]
    scores = [_scores(item, reply) for item, reply in zip(items, replies, strict=True)]
    names = [name for name in dict.fromkeys(name for s in scores for name in s) if name != "accuracy"]
    started = sum(r.started for r in replies)
    injected = sum(len(r.thoughts) for r in replies)
    baseline = _BASELINE if _BASELINE in right else next(iter(right))
    return Result(
        task=task,
        condition=condition,
        accuracy=fmean(mine),
        ci95=interval(sum(mine), n),
        n=n,
        started=started,
        injected=injected,
        used=sum(_used(r) for r in replies),
        needless=sum(needless(item, r) for item, r in zip(items, replies, strict=True)),
        seconds=sum(r.seconds for r in replies),
        first=fmean(r.first for r in replies),
        tokens=sum(r.tokens for r in replies),
        difference=None if baseline == condition else _difference(baseline, mine, right[baseline]),
        scores={name: fmean(s[name] for s in scores if name in s) for name in names},
        context=round(fmean(len(item.notes) for item in items)),
    )


def _scores(item: Item, reply: Reply) -> dict[str, float]:
    found = item.scores(reply.text)
    if item.answers and reply.started:
        found["in thoughts"] = squad.holds("\n".join(reply.thoughts), item.answers)
    return found


def _used(reply: Reply) -> int:
    """The number of thoughts whose result is in the answer."""
    said = set(calculations.numbers_of(reply.text))
    found = 0
    for thought in reply.thoughts:
        number = calculations.last_number(thought)
        found += number in said if number is not None else bool(thought.split()) and thought.split()[-1] in reply.text
    return found


def _difference(baseline: str, mine: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The difference in accuracy over the same questions, with its interval by resampling."""
    gaps = np.array(mine) - np.array(theirs)
    drawn = np.random.default_rng(0).choice(gaps, (_RESAMPLED, len(gaps))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"to": baseline, "value": float(gaps.mean()), "ci95": [float(low), float(high)]}


def grids(results: Sequence[Result]) -> list[Grid]:
    """A table for each task, and one of the other scores."""
    found = []
    for task in dict.fromkeys(r.task for r in results):
        of_it = [r for r in results if r.task == task]
        rows = tuple(
            (
                r.condition, share(r.accuracy, r.ci95), _gap(r.difference), str(r.started), str(r.injected),
                str(r.used), str(r.needless), f"{r.tokens / r.n:.0f}", f"{r.first:.1f}", f"{r.seconds / r.n:.1f}",
            )
            for r in of_it
        )  # fmt: skip
        against = next((r.difference["to"] for r in of_it if r.difference), "")
        less = f"less {against}" if against else ""
        heads = ("condition", "right", less, "started", "came in", "used", "needless", "tokens", "s to first", "s")
        notes = f", notes of {of_it[0].context:,} characters" if of_it[0].context else ""
        found.append(Grid(f"{task}, n = {of_it[0].n}{notes}", heads, rows))
        names = list(dict.fromkeys(name for r in of_it for name in r.scores))
        if names:
            parts = tuple(
                (r.condition, *(f"{r.scores[name]:.0%}" if name in r.scores else "" for name in names)) for r in of_it
            )
            found.append(Grid(f"{task}, in parts", ("condition", *names), parts))
    return found


def _gap(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return ""
    low, high = difference["ci95"]
    return f"{difference['value']:+.0%} ({low:+.0%} to {high:+.0%})"


def as_json(results: Sequence[Result], model: str, profile: str, seed: int) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model": model,
        "profile": profile,
        "seed": seed,
        "results": [asdict(r) for r in results],
    }
