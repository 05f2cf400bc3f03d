"""Does the Gate tell good thoughts from bad? Right, irrelevant, contradicted and garbled ones at the same moment.

Sessions run as in the product. When the Gate judges a right thought, it also judges others in its place: one of
another conversation, the same one with a wrong result, and garbled ones. Each is forwarded as the text of a Stream
started in the usual way, so that hidden states and probabilities are those of a Stream.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.gate import garbled, raw_cosine
from warpcortex_cli.engine.injection import Injection
from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stream import Stream, certainty
from warpcortex_cli.eval.forced import written_anew
from warpcortex_cli.eval.pocket import Case, make_case
from warpcortex_cli.eval.thoughts import KINDS
from warpcortex_cli.events import Event, GateDecided
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile, Role

LABELS = ("relevant", "irrelevant", "contradicted", "garbled")
SIGNALS = ("calibrated", "raw_cosine", "likelihood", "certainty")


@dataclass(frozen=True)
class Writing:
    """A Stream's task and text."""

    role: Role
    task: str
    text: str


@dataclass(frozen=True)
class Judged:
    """One thought and its score by each signal; higher is better. `gain`: nats a token."""

    label: str
    kind: str
    thought: str
    gain: float
    calibrated: float
    raw_cosine: float
    likelihood: float
    certainty: float


class Judge:
    """Listens to a session; at the first right thought it also judges others in its place."""

    def __init__(self, session: Session, case: Case, strangers: Sequence[Writing], rng: random.Random) -> None:
        self.session, self.case = session, case
        self.strangers, self.rng = strangers, rng
        self.judged: list[Judged] = []
        self.own: Writing | None = None

    def __call__(self, event: Event) -> None:
        right = self.case.thought
        if not isinstance(event, GateDecided) or event.thought != right or self.own is not None:
            return
        stream = self.session.stream(event.id)
        self.own = Writing(stream.role, stream.task, stream.text)
        self._judge("relevant", self.own, right)
        if self.case.wrong:
            self._judge("contradicted", _with_thought(self.own, right, self.case.wrong), self.case.wrong)
        if self.strangers:
            other = self.rng.choice(self.strangers)
            self._judge("irrelevant", other, other.text.splitlines()[-1].removeprefix("= "))
        other_text = broken(right, self.rng)
        self._judge("garbled", _with_thought(self.own, right, other_text), other_text)

    def _judge(self, label: str, writing: Writing, thought: str) -> None:
        self.judged.append(judged(self.session, label, self.case.kind, writing, thought))


def judged(session: Session, label: str, kind: str, writing: Writing, thought: str) -> Judged:
    """A thought as the Gate sees it at this moment of a session, if a Stream had written it."""
    prism, river = session.prism, session.river
    work, ids = written_anew(session, writing.role, writing.task, writing.text)
    stream = Stream(0, writing.role, writing.task, {}, 0.0)
    stream.thought = Thought(thought)
    injection = Injection(stream, river, weighs=True)
    pieces = injection.rows(injection.left)
    for (reading, _), result in zip(pieces, prism.forward([row for _, row in pieces]), strict=True):
        injection.absorb(reading, result)
    gain, likely = injection.gain() or 0.0, injection.there.likelihood(len(injection.positions) - 1)
    injection.release()
    return Judged(
        label,
        kind,
        thought,
        gain,
        calibrated=0.0 if garbled(thought) else session.conversation.gate.score(gain),
        raw_cosine=raw_cosine(work.hidden, river.hidden) or 0.0,
        likelihood=0.0 if likely is None else float(likely.mean()),
        certainty=certainty(chosen(work.scores, ids).tolist()),
    )


def broken(thought: str, rng: random.Random) -> str:
    """A thought that says nothing: shuffled, noise, or stuck at a word."""
    return rng.choice((_shuffled, _noise, _stuck))(thought, rng)


def _with_thought(writing: Writing, thought: str, other: str) -> Writing:
    head, found, tail = writing.text.rpartition(thought)
    return Writing(writing.role, writing.task, head + other + tail if found else other)


def _shuffled(thought: str, rng: random.Random) -> str:
    letters = list(thought)
    rng.shuffle(letters)
    return "".join(letters)


def _noise(thought: str, rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789=+:, ") for _ in thought)


def _stuck(thought: str, rng: random.Random) -> str:
    word = rng.choice(thought.split())
    return " ".join([word] * 9)


def run(
    prism: Prism,
    profile: Profile,
    n: int,
    notes: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Judged]:
    """Judgements at `n` right thoughts of Streams."""
    rng = random.Random(seed)
    strangers: list[Writing] = []
    for i in range(n):
        case = make_case(KINDS[i % len(KINDS)], notes, rng)
        session = Session(prism, profile)
        judge = Judge(session, case, strangers[-40:], rng)
        session.listen(judge)
        session.load_notes(case.notes)
        for _ in session.send(case.question):
            pass
        if judge.own is not None:
            strangers.append(judge.own)
        yield from judge.judged
        progress(i + 1, n)


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """Area under the ROC curve: how often a good one scores higher, ties half (Hanley & McNeil 1982)."""
    if not good or not bad:
        return 0.5
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    return wins / (len(good) * len(bad))


@dataclass(frozen=True)
class Summary:
    """ROC areas by signal: relevant against irrelevant and garbled thoughts, and right against wrong ones."""

    relevance: dict[str, float]
    correctness: dict[str, float]
    precision: float
    recall: float
    threshold: float
    counts: dict[str, int]


def summarize(judged: Sequence[Judged], profile: Profile) -> Summary:
    """Summarizes; `precision` and `recall` are of relevant against irrelevant and garbled thoughts at the threshold."""

    def of(signal: str, *labels: str) -> list[float]:
        return [getattr(j, signal) for j in judged if j.label in labels]

    limit = profile.gate.threshold
    passed = sum(v >= limit for v in of("calibrated", "relevant"))
    slipped = sum(v >= limit for v in of("calibrated", "irrelevant", "garbled"))
    return Summary(
        relevance={s: auc(of(s, "relevant"), of(s, "irrelevant", "garbled")) for s in SIGNALS},
        correctness={s: auc(of(s, "relevant"), of(s, "contradicted")) for s in SIGNALS},
        precision=passed / (passed + slipped) if passed + slipped else 0.0,
        recall=passed / max(1, len(of("calibrated", "relevant"))),
        threshold=limit,
        counts={label: sum(j.label == label for j in judged) for label in LABELS},
    )


def as_json(judged: Sequence[Judged], profile: Profile, model: str, seed: int) -> dict[str, Any]:
    """The contract of `eval gate --json`: areas of the Gate, of certainty and of the paper's cosine."""
    s = summarize(judged, profile)
    return {
        "schema_version": 1,
        "model": model,
        "seed": seed,
        "auc_relevance": s.relevance["calibrated"],
        "auc_correctness": s.correctness["certainty"],
        "auc_raw_cosine": s.relevance["raw_cosine"],
        "n": len(judged),
        "threshold": s.threshold,
        "precision": s.precision,
        "recall": s.recall,
        "counts": s.counts,
        "relevance": s.relevance,
        "correctness": s.correctness,
    }
