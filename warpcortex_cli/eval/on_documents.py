"""Questions on documents for the measurements of Synapse and Gate, for models that do not know pocket's world.

The documents are paragraphs in SQuAD's format, put behind one another to the length that is asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence

from warpcortex_cli.engine.session import Session
from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval import squad
from warpcortex_cli.eval.gate import Judged, Writing, broken, judged
from warpcortex_cli.eval.questions import Question
from warpcortex_cli.eval.synapse import Case
from warpcortex_cli.events import RiverText
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile, Role

_FEW_WORDS = "Answer with a few words from the text."
_GIVEN = "The answer is"  # models answer in sentences, so the words that are judged are put behind this
_WRONG = 3  # other answers to choose from
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_RECALL = Role(
    name="recall",
    trigger=r"\[RECALL: (?P<task>[^\[\]\n]{1,200})\]",
    prompt="Look this up in what was said above: {task}\nAnswer with one short sentence that uses only what is written "
    "there.",
)


def synapse_cases(asked: Sequence[Question], prism: Prism, context: int, n: int, seed: int) -> list[Case]:
    """`n` questions on documents of about `context` tokens; those on one document follow each other.

    Their kind says where in the document the right paragraph is: in its first, middle or last third. The other answers
    are those to three other questions on the same document.
    """
    cases, rng = [], random.Random(seed + context)
    for text, some in squad.documents(asked, context, n, seed, lambda t: len(prism.encode(t))):
        for question in some:
            depth = 10 * text.index(question.notes) // len(text)
            kind = ("early", "middle", "late")[min(2, depth * 3 // 10)]
            words = f"{question.text}\n{_FEW_WORDS}"
            right = question.answers[0]
            wrong = _alike(right, [q.answers[0] for q in asked if q.notes in text], rng)
            answers = [f"{_GIVEN} {answer}" for answer in (right, *wrong)]
            cases.append(Case(kind, depth, text, words, answers[0], _GIVEN, tuple(answers[1:])))
    return cases


def gate_thoughts(
    prism: Prism,
    profile: Profile,
    asked: Sequence[Question],
    n: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Judged]:
    """Thoughts judged when the River has begun to answer a question on a paragraph.

    Relevant is the sentence with the answer, contradicted the same with the answer to another question in its place,
    irrelevant such a sentence of another article.
    """
    rng = random.Random(seed)
    usable = [(q, s) for q in asked if (s := _sentence(q)) is not None]
    if not usable:
        raise UsageError("no answer stands in a sentence of its paragraph.", "Give a file in SQuAD's format.")
    role = next((r for r in profile.roles if r.work == "model" and r.synapse), _RECALL)
    for done, (question, right) in enumerate(rng.sample(usable, min(n, len(usable))), 1):
        others = [(q, s) for q, s in usable if q.article != question.article] or usable
        session = Session(prism, profile, streams=False)
        session.load_notes(question.notes)
        for event in session.send(question.text):
            if isinstance(event, RiverText):
                session.interrupt()
                break
        thoughts = {"relevant": right, "irrelevant": rng.choice(others)[1], "garbled": broken(right, rng)}
        wrong = _replaced(question, right, usable, rng)
        if wrong is not None:
            thoughts["contradicted"] = wrong
        for label, thought in thoughts.items():
            yield judged(session, label, "passage", Writing(role, question.text, thought), thought)
        session.close()
        progress(done, n)


def _alike(answer: str, others: Sequence[str], rng: random.Random) -> list[str]:
    """Three other answers, with digits if the right one has some, if there are as many."""
    wrong = sorted({a for a in others if a not in answer and answer not in a})
    rng.shuffle(wrong)
    return sorted(wrong, key=lambda a: any(c.isdigit() for c in a) != any(c.isdigit() for c in answer))[:_WRONG]


def _sentence(question: Question) -> str | None:
    """The first sentence of the paragraph that holds the answer."""
    found = (s for s in _SENTENCE_END.split(question.notes) if question.answers and question.answers[0] in s)
    return next(found, None)


def _replaced(question: Question, right: str, usable: Sequence[tuple[Question, str]], rng: random.Random) -> str | None:
    """The sentence with another answer: one with digits for one with digits, from the same article if there is one."""
    answer = question.answers[0]
    alike = [
        q
        for q, _ in usable
        if any(c.isdigit() for c in q.answers[0]) == any(c.isdigit() for c in answer) and q.answers[0] not in right
    ]
    near = [q for q in alike if q.article == question.article] or alike
    return right.replace(answer, rng.choice(near).answers[0], 1) if near else None
