"""What of the River a Stream still knows, by way of choosing and by budget.

A Stream is admitted as in the product; its prompt and the right answer are forwarded once over what it reads. Its
answer is right if each of its tokens is the greedy one, so the figure is that of a greedy Stream.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from warpcortex_cli.engine.admission import Admission
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.sampling import Sampler
from warpcortex_cli.engine.session import NOTES_BREAK, Session
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.eval.rivals import METHODS
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.profile import Profile, Role
from warpcortex_cli.synapse.snapshot import take

KINDS = ("recall", "several", "hops", "missing")
_TOKENS_A_NOTE = 20  # about; the context is filled to the asked length
_FOCUS_SHARE = 0.75  # of the budget, for the methods with a focus set
_REREAD = "ours-reread"  # ours, but that the focus set is read anew as text, as pocket's recall does


@dataclass(frozen=True)
class Case:
    """Notes of about `context` tokens, and one task on them. `depth`: 0 the oldest note, 9 the newest."""

    kind: str
    depth: int
    notes: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Result:
    """One method at one budget. `kl`: nats a token against the full context; `seconds`: to select."""

    method: str
    k: int
    context: int
    accuracy: float
    ci95: tuple[float, float]
    n: int
    kl: float
    compression: float
    seconds: float


@dataclass
class _Sum:
    right: int = 0
    n: int = 0
    kl: float = 0.0
    compression: float = 0.0
    seconds: float = 0.0


def make_case(rng: random.Random, prism: Prism, context: int, depth: int, kind: str) -> Case:
    """Notes in words that training never saw, and a task whose fact stands at the given tenth of them.

    Kinds: one fact; two or three of them (in the request that adds them up); two hops, from a thing to its price
    somewhere else; and what no note says.
    """
    words = Words(rng, "held-out", 0.5)
    w = world.make_world(words, max(3, context // _TOKENS_A_NOTE))
    facts = list(w.facts)
    lines = [f.sentence(i % 2) for i, f in enumerate(facts)]
    while len(prism.encode("\n".join(lines))) > context - _TOKENS_A_NOTE and len(lines) > 1:
        lines.pop()
        facts.pop()
    place = min(len(facts) - 1, depth * len(facts) // 10)
    fact = facts[place]
    price = rng.randint(2, 12)
    lines.insert(rng.randint(0, len(lines)), f"One {fact.thing.one} costs {price} coins.")
    w = world.World((fact,), {fact.thing: price})
    answer: world.Answer | None
    if kind == "several":
        others = rng.sample([f for f in facts if f is not fact], min(len(facts) - 1, rng.randint(1, 2)))
        answer = world.ask_total(world.World((fact, *others), {}), rng)
    elif kind == "hops":
        answer = world.ask_cost(w, rng)
    elif kind == "missing":
        answer = world.ask_missing(world.World(tuple(facts), {}), rng, words)
    else:
        answer = rng.choice((world.ask_count, world.ask_place, world.ask_colour))(w, rng)
    if answer is None:  # a single note has nothing to add up
        answer = world.ask_count(w, rng)
    return Case(kind, depth, "\n".join(lines), answer.question, answer.request.text if answer.request else answer.end)


class Reader:
    """One case read by a River; `measure` asks a Stream over what a method keeps of it."""

    def __init__(self, prism: Prism, profile: Profile, case: Case) -> None:
        self.prism, self.profile, self.case = prism, profile, case
        session = Session(prism, profile, streams=False)
        session.load_notes(case.notes + NOTES_BREAK)
        self.river: River = session.engine.river
        self.answer = prism.encode(case.answer)
        self.reference: Tensor | None = None

    def measure(self, method: str, k: int) -> tuple[bool, float, float, float]:
        """Whether the answer is right, KL, compression and seconds to select."""
        river, prism = self.river, self.prism
        focus = round(_FOCUS_SHARE * k) if method in ("ours", _REREAD) else 0
        marks = river.position if method == "full" else k - focus
        settings = self.profile.synapse.model_copy(
            update={"landmarks": marks, "focus": focus, "refresh_tokens": 1_000_000}
        )
        tail = {"stream_tail_tokens": 2 * focus + len(self.answer) + 256, "streams": 1}
        profile = self.profile.model_copy(
            update={"synapse": settings, "limits": self.profile.limits.model_copy(update=tail)}
        )
        admission = Admission(prism, 0)
        began = time.perf_counter()
        admission.synapse = take(prism, river.tail, settings, river.queries, 1, sampler=METHODS[method])
        prompt = "{focus}\n\n{task}" if method == _REREAD else "{task}"
        role = Role(name="asked", trigger="<(?P<task>[^>]{1,400})>", prompt=prompt, max_tokens=len(self.answer))
        stream = Stream(1, role, {"task": self.case.prompt}, prism, Sampler(), 0.0)
        admission.admit(stream, river, profile, Journal())
        seconds = time.perf_counter() - began
        assert stream.tail is not None and stream.synapse is not None
        ids = [*stream.pending, *self.answer]
        positions = list(range(stream.position, stream.position + len(ids)))
        reads = (stream.synapse.segment,) if stream.synapse.landmarks else ()
        logits = prism.forward([Row(ids, positions, stream.tail, reads, "all")])[0].logits
        assert logits is not None
        wanted = torch.tensor(self.answer)
        scores = torch.log_softmax(logits[len(stream.pending) - 1 : -1].float(), -1).cpu()
        kept = stream.synapse.landmarks + stream.focus
        stream.release()
        if method == "full":
            self.reference = scores
        kl = 0.0 if self.reference is None else float((self.reference.exp() * (self.reference - scores)).sum(1).mean())
        return bool((scores.argmax(1) == wanted).all()), kl, 1 - kept / river.position, seconds


def run(
    prism: Prism,
    profile: Profile,
    contexts: Sequence[int],
    budgets: Sequence[int],
    n: int,
    seed: int,
    methods: Sequence[str] = tuple(METHODS),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:
    """All methods over `n` cases for each context length; the same cases for all of them."""
    for number, context in enumerate(contexts):
        rng = random.Random(seed + context)
        sums: dict[tuple[str, int], _Sum] = defaultdict(_Sum)
        for i in range(n):
            case = make_case(rng, prism, context, i % 10, KINDS[i // 10 % len(KINDS)])
            reader = Reader(prism, profile, case)
            for method in ("full", *(m for m in methods if m != "full")):
                for k in (reader.river.position,) if method == "full" else budgets:
                    right, kl, compression, seconds = reader.measure(method, k)
                    total = sums[method, 0 if method == "full" else k]
                    total.right += right
                    total.n += 1
                    total.kl += kl
                    total.compression += compression
                    total.seconds += seconds
            progress(number * n + i + 1, n * len(contexts))
        for (method, k), s in sums.items():
            yield Result(
                method=method,
                k=k or context,
                context=context,
                accuracy=s.right / s.n,
                ci95=interval(s.right, s.n),
                n=s.n,
                kl=s.kl / s.n,
                compression=s.compression / s.n,
                seconds=s.seconds / s.n,
            )


def as_json(results: Sequence[Result], model: str, seed: int) -> dict[str, Any]:
    """The contract of `eval synapse --json`."""
    return {"schema_version": 1, "model": model, "seed": seed, "results": [vars(r) for r in results]}
