"""Conversations that begin alike: what one has read is copied to another, and changes nothing there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.engine.conftest import QUESTION, make_profile, run
from tests.engine.test_invariants import river_text
from warpcortex_cli import events as ev
from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.forking import begin_like
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.errors import UsageError

PLAIN = make_profile(roles=[])


def answered(session: Session, *turns: Said) -> list[ev.Event]:
    return list(session.sent(session.answer(turns)))


@pytest.mark.parametrize("memory", [{}, {"window": 96, "recall": 64}], ids=["short", "with a past"])
def test_a_fork_goes_on_as_its_original_would(prism, memory: dict[str, Any]) -> None:
    """With thoughts beside it, and with tokens that have left the tail; each then goes its own way."""
    session = Session(prism, make_profile(memory=memory), seed=3)
    session.load_notes("\n".join(f"Otto keeps lamps: {n}, red, at the barn." for n in range(8)))
    assert any(isinstance(e, ev.ThoughtInjected) for e in run(session))
    assert bool(session.river.past.tokens) == bool(memory)
    other, third = session.fork(), session.fork()
    mine, theirs = (river_text(run(s, "And the lamps?")) for s in (session, other))
    assert mine == theirs and other.turns == session.turns
    held = [part.clone() for part in third.river.tail.layer(1)]
    run(other, "What else?")
    assert all(torch.equal(a, b) for a, b in zip(held, third.river.tail.layer(1), strict=True))
    third.undo()
    assert third.undo() is not None and len(third.turns) < len(session.turns)


def test_what_was_read_once_is_not_read_again(prism, monkeypatch) -> None:
    """A client sends the whole conversation each time. One that holds it goes on; another takes a copy."""
    first = Session(prism, PLAIN)
    reply = river_text(answered(first, Said("user", QUESTION)))
    second = Session(prism, PLAIN)
    begin_like(second.river, first.river, first.river.shareable)
    read: list[int] = []
    forward = prism.forward
    monkeypatch.setattr(prism, "forward", lambda rows: read.extend(len(r.tokens) for r in rows) or forward(rows))
    assert river_text(answered(second, Said("user", QUESTION))) == reply
    assert max(read) == 1  # the last token of the prompt, for what follows it
    turns = Said("user", QUESTION), Said("assistant", reply), Said("user", "And the lamps?")
    both = [river_text(answered(session, *turns)) for session in (first, second)]
    assert both[0] == both[1] and max(read) < 20 and first.turns == second.turns


def test_what_was_read_beside_a_thought_is_not_shared(prism) -> None:
    session = Session(prism, make_profile(river={"max_tokens": 16}), seed=1)
    run(session)
    asides = [a.anchor for a in session.river.asides]
    assert asides and min(asides) <= session.river.shareable < session.river.length
    with pytest.raises(ValueError, match="depend on nothing else"):
        begin_like(Session(prism, PLAIN).river, session.river, session.river.length)
    session.conversation.rewind(session.marks[0])
    assert session.river.mixed_from is None


def test_there_is_no_fork_of_half_a_reply(prism) -> None:
    session = Session(prism, PLAIN)
    going = session.send(QUESTION)
    next(going)
    with pytest.raises(UsageError, match="while a reply is written"):
        session.fork()
    going.close()
    assert session.fork().turns == session.turns


def test_who_reads_does_not_keep_waiting_who_writes(prism, monkeypatch) -> None:
    """Rows of Rivers that read are bounded over all of them, and more so while another one writes."""
    stepper = Stepper(prism)
    writer, *readers = (Session(prism, PLAIN, stepper=stepper) for _ in range(4))
    going = writer.send(QUESTION)
    while not isinstance(next(going), ev.RiverText):
        pass
    replies = [reader.reply(QUESTION * 8) for reader in readers]
    for reply in replies:
        next(reply)
    widths: list[int] = []
    forward = prism.forward
    monkeypatch.setattr(prism, "forward", lambda rows: widths.append(sum(len(r.tokens) for r in rows)) or forward(rows))
    before = writer.river.length
    for _ in range(5):
        stepper.step()
    assert max(widths) <= 97 and writer.river.length >= before + 5
    assert all(reader.river.length for reader in readers)  # each has its turn
    for reply in replies:
        reply.close()
