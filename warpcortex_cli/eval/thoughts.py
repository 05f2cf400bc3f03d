"""Do the thoughts help? The same questions under several conditions, through the engine of the product.

Conditions (the names are a contract):
    river       the River alone.
    river-extra the River alone with the Streams' token budget: it samples more answers until the budget is used, and
                the majority counts.
    streams     the product: Streams, Gate, injection.
    oracle      the right thought, injected instead of the Stream's.
    wrong       a misleading thought instead, as if the Stream had written another result under its work.
    text        the Streams' thoughts as text between notes and question, the usual way; no Streams.
    forwarded   as `streams` with the Gate open: the thought's KV comes from a forward in the River's context.
    grafted     the same with the Stream's own KV of the thought, re-rotated to the virtual positions.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.injection import virtual_positions
from warpcortex_cli.engine.river import Aside
from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.workers.model import Writing
from warpcortex_cli.eval.forced import begun_anew, scores_of, stream_writes, written_anew
from warpcortex_cli.eval.pocket import Case, is_right, make_case
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.events import Event, GateDecided, RiverFinished, RiverText, RiverWaiting, StreamEnded, StreamSpawned
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile, Sampling

KINDS = ("total", "difference", "cost", "compare", "claim", "who-else")
CONDITIONS = ("river", "river-extra", "streams", "oracle", "wrong", "text", "forwarded", "grafted")
CROWDS = (1, 2, 4, 8, 16, 32)
_EXTRA = Sampling(temperature=0.7, top_p=0.95)
_MOST_ANSWERS = 16


@dataclass
class Reply:
    """The result of one run: the visible answer, its cost, and how its Streams ended."""

    text: str = ""
    river_tokens: int = 0
    stream_tokens: int = 0
    seconds: float = 0.0
    states: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    nll: float = math.nan  # nats a token of the reply, under the River without thoughts


@dataclass(frozen=True)
class Outcome:
    """`n` wrong thoughts with the same outcome; how many answers were right, and how many gave the wrong result."""

    n: int
    right: int
    misled: int


@dataclass(frozen=True)
class Condition:
    """One line of the result; `seconds` and `tokens` are means over the cases.

    `resisted`: the share of wrong thoughts that were rejected or whose result the answer does not give (it may still be
    wrong). `outcomes`: of wrong thoughts that were "injected", "rejected", or "never" requested or not in time.
    """

    name: str
    accuracy: float
    ci95: tuple[float, float]
    n: int
    seconds: float
    tokens: int
    perplexity: float
    resisted: float | None = None
    outcomes: dict[str, Outcome] | None = None


def reply_of(
    prism: Prism,
    profile: Profile,
    notes: str,
    question: str,
    *,
    streams: bool = True,
    seed: int = 0,
    given: str = "",
    written: str = "",
    crowd: Sequence[str] = (),
    graft: bool = False,
) -> Reply:
    """One question through a Session.

    Args:
        given: a thought that replaces each Stream's own.
        written: the text that a Stream would have written before it, from which the Gate gets its certainty.
        crowd: more thoughts that arrive together with the first given one.
        graft: inject the Streams' own KV, not a forward of the thought.
    """
    session = Session(prism, profile, seed=seed, streams=streams)
    if graft:
        session.listen(Grafts(session))
    session.load_notes(notes)
    crew, river = session.conversation.crew, session.river
    asked = 0
    out = Reply()
    due: list[Stream] = []
    began = time.perf_counter()
    for event in session.send(question):
        if isinstance(event, RiverText) and not (event.request or event.thinking):
            out.text += event.text
        if isinstance(event, RiverText | RiverWaiting) and due and river.position >= asked:
            for stream in due:
                if not stream.final:
                    sure: tuple[float, ...] = ()
                    if written:
                        work, ids = written_anew(session, stream.role, stream.task, written)
                        sure = tuple(chosen(work.scores, ids).tolist())
                    crew.offer(stream, Thought(given, log_probabilities=sure))
                others, crowd = crowd, ()
                for thought in others:
                    crew.spawn(stream.role, stream.task)
                    crew.offer(crew.streams[crew.streams.spawned], Thought(thought))
            due.clear()
        elif isinstance(event, StreamSpawned) and given and crew.streams[event.id].state == "queued":
            # No thought arrives before the River has read its own request.
            due.append(crew.streams[event.id])
            asked = river.position + len(river.pending)
        elif isinstance(event, StreamEnded):
            stream = crew.streams[event.id]
            out.states.append(event.state)
            out.thoughts.append(stream.thought.text)
            out.written.append(stream.text)
            out.stream_tokens += event.tokens
        elif isinstance(event, RiverFinished):
            out.river_tokens = event.tokens
    out.seconds = time.perf_counter() - began
    out.nll = _nll(session, out.river_tokens)
    return out


def _nll(session: Session, tokens: int) -> float:
    """Mean nats a token of the reply's last `tokens`, forwarded again without injected thoughts."""
    ids = list(session.river.sentences.ids)
    if not 0 < tokens < len(ids):
        return math.nan
    scores = scores_of(session.prism, ids)[-tokens - 1 : -1]
    return -float(chosen(scores, ids[-tokens:]).mean())


class Grafts:
    """Listens to a session and replaces an injected thought's KV by the Stream's own."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._segments: dict[int, Segment] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, GateDecided) and event.passed:
            self._segments[event.id] = self._segment(self.session.stream(event.id))
        elif isinstance(event, StreamEnded) and event.id in self._segments and event.state == "injected":
            river = self.session.river
            segment = self._segments.pop(event.id)
            river.asides.keep(
                Aside(a.stream, a.text, a.anchor, segment) if a.stream == event.id else a for a in river.asides
            )

    def _segment(self, stream: Stream) -> Segment:
        """The thought's tokens at the end of the Stream's text, re-rotated to the virtual positions.

        The Stream's tail is already released, so it is forced to write the same text again.
        """
        assert isinstance(stream.work, Writing)
        prism, written = self.session.prism, stream.work.builder.ids
        again = begun_anew(self.session, stream.role, stream.task)
        stream_writes(prism, again, written)
        count = 1
        while count < len(written) and stream.thought.text not in prism.decode(written[-count:]):
            count += 1
        assert again.tail is not None
        end = again.tail.length
        thought = again.tail.freeze(end - count, end)
        again.close()
        to = torch.tensor(virtual_positions(self.session.river.position, count), device=prism.device)
        return Segment(tuple(prism.rope.turn(thought.keys, to - thought.positions)), thought.values, to)


def _extra(prism: Prism, profile: Profile, case: Case, first: Reply, budget: int) -> Reply:
    """The most frequent result of the River's first answer and samples that use `budget` more tokens."""
    sampled = profile.model_copy(update={"sampling": _EXTRA})
    replies, spent = [first], 0
    while spent < budget and len(replies) < _MOST_ANSWERS:
        replies.append(reply_of(prism, sampled, case.notes, case.question, streams=False, seed=len(replies)))
        spent += max(1, replies[-1].river_tokens)
    best = Counter(r.text.strip() for r in replies).most_common(1)[0][0]
    return Reply(
        text=best,
        river_tokens=sum(r.river_tokens for r in replies),
        seconds=sum(r.seconds for r in replies),
        nll=first.nll,
    )


def replies(prism: Prism, profile: Profile, case: Case) -> dict[str, Reply]:
    """The case under every condition."""
    injected = profile.roles[0].injected_as
    gate_open = profile.model_copy(update={"gate": profile.gate.model_copy(update={"mode": "off"})})
    out: dict[str, Reply] = {}
    out["river"] = reply_of(prism, profile, case.notes, case.question, streams=False)
    out["streams"] = own = reply_of(prism, profile, case.notes, case.question)
    out["river-extra"] = _extra(prism, profile, case, out["river"], out["streams"].stream_tokens)
    out["oracle"] = reply_of(prism, profile, case.notes, case.question, given=case.thought)
    # As a Stream would write it: its own work with another result at the end.
    work = next((w for w, t in zip(own.written, own.thoughts, strict=True) if t == case.thought), "= " + case.thought)
    wrong = work.replace(case.thought, case.wrong)
    out["wrong"] = reply_of(prism, profile, case.notes, case.question, given=case.wrong, written=wrong)
    thoughts = "\n".join(injected.format(thought=t) for t in out["streams"].thoughts if t)
    out["text"] = reply_of(prism, profile, f"{case.notes}\n\n{thoughts}", case.question, streams=False)
    out["forwarded"] = reply_of(prism, gate_open, case.notes, case.question)
    out["grafted"] = reply_of(prism, gate_open, case.notes, case.question, graft=True)
    return out


def misled(case: Case, reply: Reply) -> bool:
    """Whether the answer gives the result of the wrong thought."""
    result = re.split(r" = |: ", case.wrong)[-1]
    if case.kind == "claim":
        result = "true" if result == "yes" else "false"
    return is_right(replace(case, value=result), reply.text)


def fate(reply: Reply) -> str:
    """The outcome of the thought given to every Stream of a reply: a key of `Condition.outcomes`."""
    return next((state for state in ("injected", "rejected") if state in reply.states), "never")


def outcomes_of(cases: Sequence[tuple[Case, Reply]]) -> dict[str, Outcome]:
    """Replies with a wrong thought, by its outcome."""
    out = {}
    for name in ("injected", "rejected", "never"):
        of = [(case, reply) for case, reply in cases if fate(reply) == name]
        right = sum(is_right(case, reply.text) for case, reply in of)
        out[name] = Outcome(len(of), right, sum(misled(case, reply) for case, reply in of))
    return out


@dataclass
class _Sum:
    """Sums over the cases of one condition; `scored`: those whose reply has a likelihood."""

    right: int = 0
    seconds: float = 0.0
    tokens: int = 0
    nll: float = 0.0
    scored: int = 0

    def add(self, reply: Reply, right: bool) -> None:
        self.right += right
        self.seconds += reply.seconds
        self.tokens += reply.river_tokens + reply.stream_tokens
        if math.isfinite(reply.nll):
            self.nll += reply.nll
            self.scored += 1


@dataclass(frozen=True)
class Crowd:
    """Accuracy with `thoughts` irrelevant thoughts beside the right one."""

    thoughts: int
    accuracy: float
    ci95: tuple[float, float]
    n: int


def run(
    prism: Prism,
    profile: Profile,
    n: int,
    notes: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Condition | Crowd]:
    """All conditions over the same `n` cases, then crowds of irrelevant thoughts over half of them."""
    rng = random.Random(seed)
    cases = [make_case(KINDS[i % len(KINDS)], notes, rng) for i in range(n)]
    crowded = cases[: max(1, n // 2)]
    total = n + len(crowded)
    sums = {name: _Sum() for name in CONDITIONS}
    wrong: list[tuple[Case, Reply]] = []
    for i, case in enumerate(cases):
        found = replies(prism, profile, case)
        for name, reply in found.items():
            sums[name].add(reply, is_right(case, reply.text))
        wrong.append((case, found["wrong"]))
        progress(i + 1, total)
    outcomes = outcomes_of(wrong)
    for name, s in sums.items():
        yield Condition(
            name,
            accuracy=s.right / n,
            ci95=interval(s.right, n),
            n=n,
            seconds=s.seconds / n,
            tokens=round(s.tokens / n),
            perplexity=math.exp(s.nll / s.scored) if s.scored else math.nan,
            resisted=1 - sum(o.misled for o in outcomes.values()) / n if name == "wrong" else None,
            outcomes=outcomes if name == "wrong" else None,
        )
    held = Counter[int]()
    for i, case in enumerate(crowded):
        irrelevant = [make_case(rng.choice(KINDS), notes, rng).thought for _ in range(CROWDS[-1])]
        for size in CROWDS:
            crowd = irrelevant[: size - 1]
            reply = reply_of(prism, profile, case.notes, case.question, given=case.thought, crowd=crowd)
            held[size] += is_right(case, reply.text)
        progress(n + i + 1, total)
    for size in CROWDS:
        yield Crowd(size, held[size] / len(crowded), interval(held[size], len(crowded)), len(crowded))


def as_json(results: Sequence[Condition | Crowd], model: str, seed: int) -> dict[str, Any]:
    """The contract of `eval thoughts --json`, with crowds added. Unknown figures are null."""

    def plain(result: Condition | Crowd) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(result).items()}

    return {
        "schema_version": 1,
        "model": model,
        "seed": seed,
        "conditions": [plain(r) for r in results if isinstance(r, Condition)],
        "crowds": [plain(r) for r in results if isinstance(r, Crowd)],
    }
