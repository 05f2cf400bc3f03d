"""How well Streams answer from the Synapse, by selection method and budget.

A Stream starts as in the product; its prompt and the right answer are forwarded once over what it reads. It is right if
each token of the answer is the greedy one, as a greedy Stream would have written it; or, for cases that name other
answers, if it is likelier than each of them.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import torch

from warpcortex_cli.engine.briefing import Briefing
from warpcortex_cli.engine.dialogue import NOTES_BREAK
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import QUERY_WINDOW, River
from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.workers.base import Host
from warpcortex_cli.engine.workers.model import ModelWorker, Writing
from warpcortex_cli.eval.forced import Written, attention_error, stream_writes
from warpcortex_cli.eval.misspelled import mistyped
from warpcortex_cli.eval.rivals import Expected, Method, ahead
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.memory.segment import Readable
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Thing, Words
from warpcortex_cli.pocket.world import Fact
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile, Role, SynapseSettings
from warpcortex_cli.synapse.landmarks import Landmarks
from warpcortex_cli.synapse.snapshot import Synapse, take

KINDS = ("recall", "several", "sums", "hops", "misspelled", "missing")
_TOKENS_A_NOTE = 20  # about; notes are added up to the requested length


@dataclass(frozen=True)
class Case:
    """Notes of about `context` tokens, and one task on them.

    Attributes:
        depth: of the fact, from 0 (oldest notes) to 9 (newest).
        answer: the text of a Stream that is right.
        given: the beginning of the answer, which is not judged.
        others: wrong answers with the same beginning.
    """

    kind: str
    depth: int
    notes: str
    prompt: str
    answer: str
    given: str = ""
    others: tuple[str, ...] = ()


class Share(NamedTuple):
    """Right answers among `n` cases, with Wilson's interval."""

    accuracy: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Result:
    """One method at one budget.

    Attributes:
        kinds: right answers by kind of task.
        kl: nats a token against the full context.
        attention_error: relative error of attention's output against the full context, by layer.
        seconds: for the selection.
    """

    method: str
    k: int
    context: int
    accuracy: float
    ci95: tuple[float, float]
    n: int
    kinds: dict[str, Share]
    kl: float
    attention_error: tuple[float, ...]
    compression: float
    seconds: float


def make_case(rng: random.Random, prism: Prism, context: int, depth: int, kind: str) -> Case:
    """Notes in words that are not in the training data, and a task whose fact is at the given tenth of them.

    Kinds: one fact; two facts to compare; two or three to add up; two hops, from a thing to its price elsewhere; one
    fact whose sentence shares no word with the task; and a fact that no note has. How many notes share a person or a
    thing is drawn for each case, and one note in five is a price.
    """
    words = Words(rng, "held-out", 0.5)
    w = world.make_world(words, max(3, context // _TOKENS_A_NOTE))
    notes: list[tuple[str, Fact | None]] = [(f.sentence(i % 2), f) for i, f in enumerate(w.facts)]
    for thing, price in w.prices.items():
        notes.insert(rng.randint(1, len(notes)), (_price(thing, price), None))
    while len(prism.encode("\n".join(line for line, _ in notes))) > context - _TOKENS_A_NOTE and len(notes) > 1:
        notes.pop()
    facts = [f for _, f in notes if f]
    fact = facts[min(len(facts) - 1, depth * len(facts) // 10)]
    lines = [line for line, _ in notes]
    price = w.prices.get(fact.thing) or rng.randint(2, 12)
    if _price(fact.thing, price) not in lines:
        lines.insert(rng.randint(0, len(lines)), _price(fact.thing, price))
    others = rng.sample([f for f in facts if f is not fact], min(len(facts) - 1, rng.randint(1, 2)))
    about = world.World((fact,), {fact.thing: price})
    answer: world.Answer | None = None
    if kind == "misspelled":
        return _misspelled(rng, fact, depth, lines)
    if kind == "several" and others:
        answer = world.ask_compare(world.World((fact, others[0]), {}), rng)
    elif kind == "sums":
        answer = world.ask_total(world.World((fact, *others), {}), rng)
    elif kind == "hops":
        answer = world.ask_cost(about, rng)
    elif kind == "missing":
        answer = world.ask_missing(world.World(tuple(facts), {}), rng, words)
    elif kind == "recall":
        answer = rng.choice((world.ask_count, world.ask_place, world.ask_colour))(about, rng)
    if answer is None:  # a single note has nothing to compare or to add up
        answer = world.ask_count(about, rng)
    return Case(kind, depth, "\n".join(lines), answer.question, answer.request.text if answer.request else answer.end)


def _price(thing: Thing, price: int) -> str:
    return f"One {thing.one} costs {price} coins."


def _misspelled(rng: random.Random, fact: Fact, depth: int, lines: list[str]) -> Case:
    """A question on a fact that shares no word with its note: one letter of the name and one of the thing are wrong.

    pocket repeats the names as in the question, so their spelling is not judged.
    """
    notes = "\n".join(lines)
    person, thing = (mistyped(rng, word, notes) for word in (fact.person, fact.thing.many))
    question, details = rng.choice(
        (
            (f"How many {thing} does {person} have?", f"{fact.count}"),
            (f"Which colour are {person}'s {thing}?", f"{fact.count}, {fact.colour}"),
        )
    )
    given = f"The {thing} of {person}:"
    return Case("misspelled", depth, notes, question, f"{given} {details}.", given)


class Measured(NamedTuple):
    """One case: `kl` in nats a token and `errors` of attention by layer, both against the full context."""

    kind: str
    right: bool
    kl: float
    errors: tuple[float, ...]
    compression: float
    seconds: float


class Reader:
    """A case read by a River; `measure` asks a Stream that reads a method's selection."""

    def __init__(self, prism: Prism, profile: Profile, case: Case) -> None:
        self.prism, self.profile = prism, profile
        session = Session(prism, profile.with_whole_context(), streams=False)
        session.load_notes(case.notes + NOTES_BREAK)
        self.river: River = session.river
        self.ask(case)

    def ask(self, case: Case) -> None:
        """Goes on to another case with the same notes."""
        self.case = case
        self.answer = self.prism.encode(case.answer)
        self.others = [self.prism.encode(other) for other in case.others]
        self.longest = max(map(len, (self.answer, *self.others)))
        self.given = len(self.prism.encode(case.given))  # tokens of the answer that are not judged
        self.reference: Written | None = None

    def measure(self, method: Method | None, k: int = 0) -> Measured:
        """One method at a budget of `k`. None is the full context, the reference for later calls."""
        river, prism = self.river, self.prism
        focus = round(method.focus * k) if method else 0
        marks = k - focus if method else river.position
        settings = self.profile.synapse.model_copy(
            update={"landmarks": marks, "focus": focus, "refresh_tokens": 1_000_000}
        )
        tail = {"stream_tail_tokens": 2 * focus + self.longest + 256, "streams": 1}
        profile = self.profile.model_copy(
            update={"synapse": settings, "limits": self.profile.limits.model_copy(update=tail)}
        )
        briefing, worker = Briefing(prism), ModelWorker(Host(prism, river, 0))
        worker.use(profile)
        sampler = method.landmarks if method else None
        after = self._earlier(settings, sampler, method.grown) if method and method.grown else None
        queries = self._queries_ahead() if method and method.ahead else river.queries
        began = time.perf_counter()
        briefing.synapse = take(prism, river.tail, settings, queries, 1, sampler=sampler, after=after)
        prompt = "{focus}\n\n{task}" if method and method.rereads else "{task}"
        role = Role(name="asked", trigger="<(?P<task>[^>]{1,400})>", prompt=prompt, max_tokens=self.longest)
        brief = briefing.full(briefing.task(1, role, self.case.prompt.strip(), {}), river, profile, Journal())
        work = worker.take(brief)
        work.start()
        seconds = time.perf_counter() - began
        assert work.tail is not None and work.reads is not None
        begins = work.tail.length
        written = stream_writes(prism, work, self.answer)
        kept: list[Readable] = [*work.reads.segments[:1]]
        if brief.focus:
            chosen = prism.new_tail(len(brief.focus))
            chosen.copy_from(river.tail, torch.tensor(brief.focus))
            kept.append(chosen.view(len(brief.focus)))
        compression = 1 - (brief.landmarks + len(brief.focus)) / river.position
        right = self._right(work, begins, written)
        work.close()
        if method is None:
            self.reference = written
        if self.reference is None:
            return Measured(self.case.kind, right, 0.0, (0.0,) * prism.layers, compression, seconds)
        expected = self.reference.scores
        kl = float((expected.exp() * (expected - written.scores)).sum(1).mean())
        errors = attention_error(prism, self.reference.queries, river.tail.view(river.position), kept)
        return Measured(self.case.kind, right, kl, tuple(errors), compression, seconds)

    def _right(self, work: Writing, begins: int, written: Written) -> bool:
        """Whether the answer would be written or, of a case with other answers, is likelier a token than each of them.

        Args:
            begins: the length of the work's tail before the answer was written.
        """
        if not self.others:
            greedy = written.scores.argmax(1).cpu() == torch.tensor(self.answer)
            return bool(greedy[self.given :].all())
        likely = [self._likelihood(written, self.answer)]
        for other in self.others:
            assert work.tail is not None
            work.tail.truncate(begins)
            likely.append(self._likelihood(stream_writes(self.prism, work, other), other))
        return likely[0] > max(likely[1:])

    def _likelihood(self, written: Written, ids: list[int]) -> float:
        """Nats a token of what is judged."""
        return float(chosen(written.scores, ids)[self.given :].mean())

    def _queries_ahead(self) -> list[torch.Tensor]:
        """Queries of the whole context except its sinks, rotated by `ahead`, per layer [heads, n, head_dim]."""
        river, sinks = self.river, Expected.sinks
        queries = river.queries_of(list(river.sentences.ids[: river.position]), 0)[:, :, sinks:]
        return ahead(self.prism.rope, river.unrotated(queries, sinks), river.position)

    def _earlier(self, settings: SynapseSettings, sampler: Landmarks | None, tokens: int) -> Synapse:
        """The Synapse of the River when it was `tokens` tokens shorter."""
        river, prism = self.river, self.prism
        end = river.position - tokens
        queries = river.queries_of(list(river.sentences.ids[end - QUERY_WINDOW : end]), end - QUERY_WINDOW)
        tail = prism.new_tail(end)
        tail.copy_from(river.tail, torch.arange(end))
        synapse = take(prism, tail, settings, queries, 1, sampler=sampler)
        tail.release()
        return synapse


def run(
    prism: Prism,
    profile: Profile,
    contexts: Sequence[int],
    budgets: Sequence[int],
    n: int,
    seed: int,
    methods: Mapping[str, Method],
    progress: Callable[[int, int], None] = lambda done, total: None,
    made: Callable[[int], Sequence[Case]] | None = None,
) -> Iterator[Result]:
    """The full context and all methods over the same `n` cases for each context length.

    Args:
        made: the cases for a context length; None: of pocket's world.
    """
    for number, context in enumerate(contexts):
        found: dict[tuple[str, int], list[Measured]] = defaultdict(list)
        cases_here = _of_world(prism, context, n, seed) if made is None else made(context)
        kinds = tuple(dict.fromkeys(case.kind for case in cases_here))
        kinds = KINDS if set(kinds) <= set(KINDS) else kinds
        reader: Reader | None = None
        for i, case in enumerate(cases_here):
            if reader is not None and reader.case.notes == case.notes:
                reader.ask(case)
            else:
                reader = Reader(prism, profile, case)
            found["full", context].append(reader.measure(None))
            for name, method in methods.items():
                for k in budgets:
                    found[name, k].append(reader.measure(method, k))
            progress(number * n + i + 1, n * len(contexts))
        for (name, k), cases in found.items():
            yield Result(
                method=name,
                k=k,
                context=context,
                **_share(cases)._asdict(),
                kinds={kind: _share(of) for kind in kinds if (of := [c for c in cases if c.kind == kind])},
                kl=fmean(c.kl for c in cases),
                attention_error=tuple(fmean(c.errors[i] for c in cases) for i in range(prism.layers)),
                compression=fmean(c.compression for c in cases),
                seconds=fmean(c.seconds for c in cases),
            )


def _of_world(prism: Prism, context: int, n: int, seed: int) -> list[Case]:
    """Cases of pocket's world: 60 cover each kind at each depth; fewer still cover all kinds."""
    rng = random.Random(seed + context)
    return [make_case(rng, prism, context, i % 10, KINDS[(i + i // 10) % len(KINDS)]) for i in range(n)]


def _share(cases: Sequence[Measured]) -> Share:
    right, n = sum(c.right for c in cases), len(cases)
    return Share(right / n, interval(right, n), n)


def as_json(results: Sequence[Result], model: str, seed: int) -> dict[str, Any]:
    """The contract of `eval synapse --json`."""
    rows = [{**vars(r), "kinds": {kind: share._asdict() for kind, share in r.kinds.items()}} for r in results]
    return {"schema_version": 1, "model": model, "seed": seed, "results": rows}
