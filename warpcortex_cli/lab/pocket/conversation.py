"""Training conversations from a world: the model's input, and which tokens it learns."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from warpcortex_cli.pocket import arithmetic, world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.pocket.world import Answer, Request, World

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"


@dataclass(frozen=True)
class Piece:
    """A stretch of a training sequence.

    `learn`: the loss weight of its tokens. `aside`: an injected thought, at virtual positions that end at the River's
    current one, exactly as in the engine. `keep`: only this many of its tokens, at their own positions, as a Stream
    reads the landmarks of the River's context.
    """

    text: str
    learn: float = 0.0
    aside: bool = False
    special: bool = False
    keep: int | None = None


@dataclass(frozen=True)
class Mix:
    """Frequencies of each kind of turn; lessons change them."""

    recall: float = 6.0
    delegated: float = 9.0
    talk: float = 0.3
    made_up: float = 0.6
    chopped: float = 0.0  # share of made-up words that are cut into syllables
    totals: float = 3.5  # weight among delegated questions
    invented: float = 0.0  # share of totals with meaningless words around their terms
    worded: float = 0.0  # share of totals with composed wordings
    numbers: tuple[float, ...] = (4, 2, 2, 2)  # weights of Streams that add two, three, four, five numbers
    chosen: float = 1.0  # loss weight of what a request for a total chooses rather than copies


DEFAULT_MIX = Mix()


def _user(text: str) -> list[Piece]:
    return [Piece(USER, special=True), Piece(text), Piece(END, special=True), Piece(ASSISTANT, special=True)]


def _close() -> Piece:
    return Piece(END, learn=1.0, special=True)


def stream_turn(prompt: str, work: str) -> list[Piece]:
    """A whole Stream: the task as a user turn, its thinking as the answer."""
    return [*_user(prompt), Piece(work, learn=1.0), _close()]


def _wrong(request: Request, rng: random.Random, others: list[Request]) -> str:
    """A thought of another request."""
    if others and rng.random() < 0.7:
        return rng.choice(others).thought
    task = f"{rng.randint(1, 99)} + {rng.randint(1, 99)}"
    return f"{task} = {arithmetic.evaluate(task)}"


def _asking(a: Answer, chosen: float) -> list[Piece]:
    """The River's text up to the end of its request. In a sum, the beginning of each term chooses the next one.

    Pieces within the text begin with a space, so that their tokens are those of the whole text.
    """
    assert a.request
    if a.kind != "total" or chosen == 1.0:
        return [Piece(f"{a.start} {a.request.text}".strip(), 1.0)]
    out = []
    for number, term in enumerate(a.request.text.split(" + ")):
        name, count = term.split(": ")[-2:]
        thing, person = name.split(" of ")
        begin = f"[{a.request.trigger}:" if number == 0 else " +"
        out += [Piece(f"{begin} {thing}", chosen), Piece(f" of {person}:", 1.0), Piece(f" {count}", chosen)]
    return out


def river_turn(a: Answer, rng: random.Random, others: list[Request], chosen: float = 1.0) -> list[Piece]:
    """The River's answer, with the thought arriving at some point, or never, or a wrong one instead.

    `chosen`: as in `Mix`.
    """
    if a.request is None:
        pieces = [Piece(a.end, learn=1.0), _close()]
        if others and rng.random() < 0.08:
            pieces.insert(0, Piece(f"[Ref: {rng.choice(others).thought}]", aside=True))
        return pieces
    head = _asking(a, chosen)
    arrival = rng.choices(("pause", "early", "filler", "never", "wrong"), (50, 7, 8, 27, 8))[0]
    thought = f"[Ref: {a.request.thought}]"
    aside = Piece(thought, learn=0.05, aside=True)
    if arrival == "wrong":
        thought = f"[Ref: {_wrong(a.request, rng, others)}]"
        aside = Piece(thought, aside=True)
    if arrival == "filler" and " " in a.meanwhile:
        first, rest = a.meanwhile.split(" ", 1)
        return [*head, Piece(f" {first}", 1.0), aside, Piece(" " + rest, 1.0), Piece("\n" + a.end, 2.0), _close()]
    if arrival == "early":
        return [*head, aside, Piece(" " + a.meanwhile, 1.0), Piece("\n" + a.end, 2.0), _close()]
    if arrival == "never":
        return [*head, Piece(f" {a.meanwhile}\n{a.end}", 1.0), _close()]
    return [*head, Piece(f" {a.meanwhile}", 1.0), aside, Piece("\n" + a.end, 2.0), _close()]


def inline_turn(a: Answer, w: World, sentences: list[str], chosen: float = 1.0) -> list[Piece]:
    """The same steps in the River's own text: the Stream's task, its thinking, then the answer.

    The control for the value of Streams. The River has no focus set: where a Stream goes through the sentences of its
    own, this goes through all notes.
    """
    if a.request is None:
        return [Piece(a.end, 1.0), _close()]
    if a.kind == "who-else":
        but, place = world.asked_for(a.request)
        said = world.keepers_work(w, sentences, place, but)
        steps = [Piece("\n", 1.0), *(Piece(text, _DECIDED if decided else 1.0) for text, decided in said)]
    elif a.kind == "about":
        steps = [Piece(f"\n{a.request.work}", 1.0)]
    else:
        steps = [Piece(f" {a.request.plain}\n{a.request.work}", 1.0)]
    return [*_asking(a, chosen), *steps, Piece("\n" + a.end, 2.0), _close()]


def _label(words: Words) -> str:
    return f"{words.thing().many} of {words.name()}: " if words.rng.random() < 0.85 else ""


_CALCULATIONS = {"sum": 6.0, "difference": 2.5, "product": 4.0, "compare": 1.0, "same": 1.0, "words": 0.7}


def calculation(
    words: Words, kind: str, labelled: bool, numbers: tuple[float, ...] = DEFAULT_MIX.numbers
) -> tuple[str, str]:
    """The prompt and the work of a Stream that reads no notes. `numbers`: as in `Mix`."""
    rng = words.rng

    def n() -> int:
        return rng.randint(100, 999) if rng.random() < 0.03 else rng.randint(1, 99)

    labels = [_label(words) if labelled else "" for _ in range(5)]
    a, b = n(), n()
    if kind == "sum":
        terms = [n() for _ in range(rng.choices((2, 3, 4, 5), numbers)[0])]
        named = " + ".join(f"{label}{term}" for label, term in zip(labels, terms, strict=False))
        return f"math: {named}", arithmetic.work(" + ".join(map(str, terms)))
    if kind == "difference":
        a, b = (min(a, b), max(a, b)) if rng.random() < 0.2 else (max(a, b), min(a, b))
        return f"math: {labels[0]}{a} - {labels[1]}{b}", arithmetic.work(f"{a} - {b}")
    if kind == "product":
        b = rng.randint(13, 99) if rng.random() < 0.12 else rng.randint(2, 12)
        price = f"one {words.thing().one} costs {b}" if labelled else f"{b}"
        return f"math: {labels[0]}{a} * {price}", arithmetic.work(f"{a} * {b}")
    if kind == "compare":
        return f"check: {labels[0]}{a} > {labels[1]}{b}", arithmetic.compare(a, b)
    if kind == "same":
        b = rng.choice((a, a, b, max(1, a + rng.choice((-1, 1, 10)))))
        return f"check: {labels[0]}{a} = {b}", arithmetic.same(a, b)
    draw, before = rng.choice(((words.colour, ""), (words.place, f"{words.colour()}, ")))
    left = draw()
    right = left if rng.random() < 0.5 else draw()
    before = f"{labels[0]}{a}, {before}" if labels[0] else ""
    return f"check: {before}{left} = {right}", arithmetic.same_words(left, right)


def sums(words: Words, budget: int, numbers: tuple[float, ...] = DEFAULT_MIX.numbers) -> list[Piece]:
    """A sequence of calculating and comparing Streams, up to about `budget` characters."""
    rng = words.rng
    out: list[Piece] = []
    while sum(len(p.text) for p in out) < budget:
        kind = rng.choices(list(_CALCULATIONS), list(_CALCULATIONS.values()))[0]
        out += stream_turn(*calculation(words, kind, rng.random() < 0.65, numbers))
    return out


_DECIDED = 3.0  # loss weight of the few words of a reading Stream that are not copied
_FOCUS_CHARACTERS = 480  # about the 224 tokens of the profile


def _focus(sentences: list[str], task: str, rng: random.Random) -> list[str]:
    """A focus set similar to the engine's: sentences that share rare words with the task first, while they fit."""
    bags = [set(re.findall(r"\w+", s.lower())) for s in sentences]
    common = Counter(word for bag in bags for word in bag)
    asked = set(re.findall(r"\w+", task.lower()))
    noise = rng.choice((0.1, 0.1, 0.1, 3.0))
    worth = [
        sum(math.log((len(bags) + 1) / (common[w] + 0.5)) for w in asked & bag) + noise * rng.random() for bag in bags
    ]
    least = rng.choice((0.3, 0.3, 0.0)) * max(worth)
    room = rng.choice((_FOCUS_CHARACTERS, rng.randint(60, _FOCUS_CHARACTERS)))
    chosen = []
    for i in sorted(range(len(sentences)), key=worth.__getitem__, reverse=True):
        if worth[i] >= least and len(sentences[i]) <= room:
            chosen.append(i)
            room -= len(sentences[i])
    return [sentences[i] for i in sorted(chosen)]


def reading(words: Words, notes: int, about: bool | None = None) -> list[Piece]:
    """A reading Stream: landmarks of the River's context, the sentences of its focus set, then its task.

    The task is to find who else is at a place, or (`about`) everything about one thing.
    """
    rng = words.rng
    w = world.make_world(words, notes, crowded=rng.random() < 0.35)
    sentences = world.sentences_of(w, rng)
    shared = [f for f in w.facts if w.others_at(f.place, f.person)]
    fact = rng.choice(shared if shared and rng.random() < 0.9 else w.facts)
    about = rng.random() < 0.2 if about is None else about
    if about and rng.random() < 0.5:  # else it reads the River's own context
        whole = [Piece(USER, special=True), Piece(world.join_notes(sentences, rng)), Piece(END, special=True)]
        return [*whole, *stream_turn(f"recall: {fact.name}", f"= {fact.name}: {fact.details()}")]
    question = f"Who else keeps things where {fact.person} keeps {fact.thing.many}?"
    request = world.keepers_request(w, fact.place, fact.person)
    task = fact.name if about else request.task
    focus = _focus([*sentences, question], task, rng)
    if about:
        focus += [s for s in sentences if fact.details() in s and s not in focus]
        work = [Piece(f"= {fact.name}: {fact.details()}", 1.0)]
    else:
        said = world.keepers_work(w, focus, fact.place, fact.person)
        work = [Piece(text, _DECIDED if decided else 1.0) for text, decided in said]
    head: list[Piece] = []
    if rng.random() < 0.8:
        river = f"{world.join_notes(sentences, rng)}\n\n{question}"
        reply = f"{fact.quoted()} {request.text}"
        head = [Piece(USER, special=True), Piece(river, keep=rng.randint(16, 72)), Piece(END, special=True)]
        head += [Piece(ASSISTANT, special=True), Piece(reply, keep=rng.randint(0, 40)), Piece(END, special=True)]
    return [*head, *_user("\n".join(world.numbered(focus)) + f"\n\nrecall: {task}"), *work, _close()]


_RECALL: tuple[tuple[Callable[..., Answer | None], float], ...] = (
    (world.ask_count, 3.5),
    (world.ask_place, 2.0),
    (world.ask_colour, 1.0),
    (world.ask_price, 0.5),
)
_DELEGATED: tuple[tuple[Callable[..., Answer | None], float], ...] = (
    (world.ask_total, DEFAULT_MIX.totals),
    (world.ask_difference, 1.2),
    (world.ask_cost, 1.5),
    (world.ask_compare, 1.2),
    (world.ask_who_else, 1.8),
    (world.ask_about, 0.6),
)


def question(w: World, rng: random.Random, words: Words, mix: Mix) -> Answer:
    """One question on the notes, with its answer."""
    while True:
        if rng.random() * (mix.recall + mix.delegated) < mix.recall:
            if rng.random() < 0.04:
                return world.ask_missing(w, rng, words)
            answer = rng.choices([a for a, _ in _RECALL], [p for _, p in _RECALL])[0](w, rng)
        elif rng.random() < 0.12:
            return world.ask_claim(w, rng, words)
        else:
            shares = [mix.totals if ask is world.ask_total else share for ask, share in _DELEGATED]
            ask = rng.choices([ask for ask, _ in _DELEGATED], shares)[0]
            answer = world.ask_total(w, rng, mix.invented, mix.worded) if ask is world.ask_total else ask(w, rng)
        if answer is not None:
            return answer


def conversation(words: Words, notes: int, budget: int, mix: Mix, inline: bool = False) -> list[Piece]:
    """One conversation over `notes` sentences, with turns up to about `budget` characters.

    `inline`: the same questions, with the steps of Streams in the River's own text.
    """
    rng = words.rng
    w = world.make_world(words, notes)
    sentences = world.sentences_of(w, rng)
    text = world.join_notes(sentences, rng)
    out: list[Piece] = []
    used = len(text)
    others: list[Request] = []
    prefix = f"{text}\n\n"
    if rng.random() < 0.04:
        out += [*_user(text), Piece(world.NOTED, 1.0), _close()]
        prefix = ""
    elif rng.random() < 0.1 * mix.talk:
        out += small_talk(words)
        used += sum(len(p.text) for p in out)
    while used < budget or prefix:
        a = None
        if rng.random() < 0.25 * mix.talk:
            turn = small_talk(words, prefix)
        else:
            a = question(w, rng, words, mix)
            asked = _user(prefix + a.question)
            turn = [*asked, *river_turn(a, rng, others, mix.chosen)]
            if a.request:
                others.append(a.request)
        used += sum(len(p.text) for p in turn) - len(prefix)
        out += [*asked, *inline_turn(a, w, sentences, mix.chosen)] if inline and a else turn
        prefix = ""
    return out


def small_talk(words: Words, before: str = "") -> list[Piece]:
    """A turn unrelated to notes, even if there are some `before` it."""
    return [*_user(before + world.small_talk(words.rng, words)), Piece(world.ABOUT, 1.0), _close()]


def copying(words: Words, count: int) -> list[Piece]:
    """First lessons: copying a list, and bare association, `ropes: 47. lamps: 12.` then `lamps?` -> `12`."""
    rng = words.rng
    if rng.random() < 0.4:
        items = " ".join(
            rng.choice((words.name, words.colour, lambda: words.thing().many, lambda: str(world._count(rng))))()
            for _ in range(count * 3)
        )
        return [*_user(items), Piece(items, 1.0), _close()]
    keys = world._distinct(lambda: words.thing().many if rng.random() < 0.5 else words.name(), count)
    values = [str(world._count(rng)) if rng.random() < 0.6 else words.colour() for _ in keys]
    listed = " ".join(f"{k}: {v}." for k, v in zip(keys, values, strict=True))
    out = [Piece(USER, special=True), Piece(listed + "\n\n")]
    order = rng.sample(range(count), count)
    for n, i in enumerate(order):
        out += [
            Piece(f"{keys[i]}?"),
            Piece(END, special=True),
            Piece(ASSISTANT, special=True),
            Piece(f"{keys[i]}: {values[i]}.", 1.0),
            _close(),
        ]
        if n + 1 < count:
            out.append(Piece(USER, special=True))
    return out
