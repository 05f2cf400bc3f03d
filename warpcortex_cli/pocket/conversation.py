"""Conversations out of a world: what is shown to the model, and which tokens it learns to write."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from warpcortex_cli.pocket import arithmetic, world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.pocket.world import Answer, Request, World

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"


@dataclass(frozen=True)
class Piece:
    """A stretch of a training sequence.

    `learn`: the weight of its tokens in the loss. `aside`: an injected thought, which stands at virtual positions
    that end at the River's current one, exactly as the engine injects it.
    """

    text: str
    learn: float = 0.0
    aside: bool = False
    special: bool = False


@dataclass(frozen=True)
class Mix:
    """How often each kind of turn comes up; the curriculum changes these."""

    recall: float = 6.0
    delegated: float = 9.0
    streams: float = 6.0
    talk: float = 0.3
    made_up: float = 0.6
    chopped: float = 0.0  # of what is made up


DEFAULT_MIX = Mix()


def _user(text: str) -> list[Piece]:
    return [Piece(USER, special=True), Piece(text), Piece(END, special=True), Piece(ASSISTANT, special=True)]


def _close() -> Piece:
    return Piece(END, learn=1.0, special=True)


def stream_turn(prompt: str, work: str) -> list[Piece]:
    """A Stream's whole life: the task as a user turn, its thinking as the answer."""
    return [*_user(prompt), Piece(work, learn=1.0), _close()]


def _wrong(request: Request, rng: random.Random, others: list[Request]) -> str:
    """A thought that does not belong to this request."""
    if others and rng.random() < 0.7:
        return rng.choice(others).thought
    task = f"{rng.randint(1, 99)} + {rng.randint(1, 99)}"
    return f"{task} = {arithmetic.evaluate(task)}"


def river_turn(a: Answer, rng: random.Random, others: list[Request]) -> list[Piece]:
    """The River's answer, with the thought arriving at some moment, or never, or a wrong one instead."""
    if a.request is None:
        pieces = [Piece(a.end, learn=1.0), _close()]
        if others and rng.random() < 0.08:
            pieces.insert(0, Piece(f"[Ref: {rng.choice(others).thought}]", aside=True))
        return pieces
    head = f"{a.start} {a.request.text}".strip()
    arrival = rng.choices(("pause", "early", "filler", "never", "wrong"), (50, 7, 8, 27, 8))[0]
    thought = f"[Ref: {a.request.thought}]"
    aside = Piece(thought, learn=0.05, aside=True)
    if arrival == "wrong":
        thought = f"[Ref: {_wrong(a.request, rng, others)}]"
        aside = Piece(thought, aside=True)
    if arrival == "filler":
        first, rest = a.meanwhile.split(" ", 1) if " " in a.meanwhile else ("", a.meanwhile)
        if first:
            return [Piece(f"{head} {first}", 1.0), aside, Piece(" " + rest, 1.0), Piece("\n" + a.end, 2.0), _close()]
    if arrival == "early":
        return [Piece(head, 1.0), aside, Piece(" " + a.meanwhile, 1.0), Piece("\n" + a.end, 2.0), _close()]
    if arrival == "never":
        return [Piece(f"{head} {a.meanwhile}\n{a.end}", 1.0), _close()]
    return [Piece(f"{head} {a.meanwhile}", 1.0), aside, Piece("\n" + a.end, 2.0), _close()]


def _recall_stream(w: World, rng: random.Random) -> tuple[str, str]:
    f = rng.choice(w.facts)
    if rng.random() < 0.6:
        request = world.keepers_request(w, f.place, f.person if rng.random() < 0.8 else None)
        return f"recall: {request.task}", request.work
    return f"recall: {f.name}", f"= {f.name}: {f.details()}"


def _check_stream(w: World, rng: random.Random, words: Words) -> tuple[str, str]:
    claim = world.claim_about(w, rng, words)
    return f"check: {claim.text}", claim.work


def sums(rng: random.Random, budget: int) -> list[Piece]:
    """Math and comparing Streams, which read no notes."""

    def n() -> int:
        return rng.randint(100, 999) if rng.random() < 0.03 else rng.randint(1, 99)

    out: list[Piece] = []
    while sum(len(p.text) for p in out) < budget:
        kind = rng.choices(("sum", "difference", "product", "compare"), (6, 3, 3.5, 1))[0]
        a, b = n(), n()
        if kind == "sum":
            task = " + ".join(str(n()) for _ in range(rng.choices((2, 3, 4, 5), (4, 2, 2, 2))[0]))
        elif kind == "difference":
            task = f"{min(a, b)} - {max(a, b)}" if rng.random() < 0.2 else f"{max(a, b)} - {min(a, b)}"
        else:
            task = f"{a} * {rng.randint(13, 99) if rng.random() < 0.12 else rng.randint(2, 12)}"
        out += (
            stream_turn(f"check: {a} > {b}", arithmetic.compare(a, b))
            if kind == "compare"
            else stream_turn(f"math: {task}", arithmetic.work(task))
        )
    return out


_RECALL: tuple[tuple[Callable[..., Answer | None], float], ...] = (
    (world.ask_count, 3.5),
    (world.ask_place, 2.0),
    (world.ask_colour, 1.0),
    (world.ask_price, 0.5),
)
_DELEGATED: tuple[tuple[Callable[..., Answer | None], float], ...] = (
    (world.ask_total, 3.5),
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
            answer = rng.choices([a for a, _ in _DELEGATED], [p for _, p in _DELEGATED])[0](w, rng)
        if answer is not None:
            return answer


def conversation(words: Words, notes: int, budget: int, mix: Mix) -> list[Piece]:
    """One conversation over `notes` sentences; turns are added until about `budget` characters are used."""
    rng = words.rng
    w = world.make_world(words, notes)
    text = world.notes_text(w, rng)
    out: list[Piece] = []
    used = len(text)
    others: list[Request] = []
    prefix = f"{text}\n\n"
    if rng.random() < 0.04:
        out += [*_user(text), Piece(world.NOTED, 1.0), _close()]
        prefix = ""
    elif rng.random() < 0.1 * mix.talk:
        out += [*_user(small_talk := world.small_talk(rng, words)), Piece(world.ABOUT, 1.0), _close()]
        used += len(small_talk) + len(world.ABOUT)
    while used < budget or prefix:
        if prefix == "" and rng.random() * (mix.recall + mix.delegated + mix.streams) < mix.streams:
            turn = stream_turn(*(_recall_stream(w, rng) if rng.random() < 0.6 else _check_stream(w, rng, words)))
        else:
            a = question(w, rng, words, mix)
            turn = _user(prefix + a.question)
            if a.request and a.request.trigger != "MATH" and rng.random() < 0.3:
                # A Stream begins where the River asked for it: in the middle of its answer.
                turn += [Piece(f"{a.start} {a.request.text}".strip(), 1.0), Piece(END, special=True)]
                turn += stream_turn(f"{a.request.trigger.lower()}: {a.request.task}", a.request.work)
            else:
                turn += river_turn(a, rng, others)
            if a.request:
                others.append(a.request)
            prefix = ""
        out += turn
        used += sum(len(p.text) for p in turn)
    return out


def small_talk(words: Words) -> list[Piece]:
    return [*_user(world.small_talk(words.rng, words)), Piece(world.ABOUT, 1.0), _close()]


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
