"""The Synapse that Streams start from: taken anew as the River grows, out of what the last one left and what is new."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import pytest

from tests.engine.conftest import make_profile
from warpcortex_cli.engine import heads
from warpcortex_cli.engine.session import Session
from warpcortex_cli.synapse.snapshot import Synapse

NOTES = "\n".join(f"Mara keeps ropes: {n}, brown, in the old mill." for n in range(10, 28))


def taken(session: Session) -> Synapse:
    """The Synapse of a Stream that starts now."""
    engine = session.conversation
    engine.crew.spawn(session.profile.roles[0], "ropes")
    session.step()
    assert engine.crew.briefing.synapse is not None
    return engine.crew.briefing.synapse


def test_a_grown_river_gives_a_new_version_out_of_the_old_ones_candidates(prism) -> None:
    profile = make_profile(
        synapse={"landmarks": 8, "focus": 0, "refresh_tokens": 4}, role={"max_tokens": 1}, river={"max_tokens": 8}
    )
    session = Session(prism, profile)
    session.load_notes(NOTES)
    first = taken(session)
    assert first.candidates is not None
    session.load_notes("Otto keeps lamps: 3.")
    second = taken(session)
    assert second.version > first.version and second.context > first.context
    assert second.candidates is first.candidates
    session.load_notes(NOTES[: len(NOTES) // 4])
    third = taken(session)
    assert third.candidates is not None and third.candidates.context == third.context


def test_what_was_taken_back_is_no_candidate(prism) -> None:
    profile = make_profile(
        synapse={"landmarks": 8, "focus": 0, "refresh_tokens": 4}, role={"max_tokens": 1}, river={"max_tokens": 8}
    )
    session = Session(prism, profile)
    session.load_notes(NOTES)
    list(session.send("How many?"))
    first = taken(session)
    session.conversation.crew.cancel_all("test")
    while session.undo():  # thoughts first, then the turn
        pass
    assert session.river.length < first.context
    session.load_notes(NOTES.replace("ropes", "lamps") + "\nOtto keeps red lamps in the old mill, and that is all.")
    assert first.context <= session.river.length <= 9 * first.context // 8
    second = taken(session)
    assert first.candidates is not None and second.candidates is not None
    assert second.candidates is not first.candidates and second.candidates.context == second.context


def test_the_heads_of_focus_sets_are_found_before_anything_is_said(prism, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds for a larger model, which would be missed in the middle of a reply."""
    for focus, streams, found in ((0, True, False), (32, False, False), (32, True, True)):
        monkeypatch.setattr(heads, "_known", WeakKeyDictionary())
        Session(prism, make_profile(synapse={"landmarks": 8, "focus": focus}), streams=streams)
        assert (prism in heads._known) == found


@pytest.mark.parametrize("notes", [4, 18])
def test_streams_stand_right_behind_what_they_read_also_where_the_river_has_a_past(prism, notes: int) -> None:
    """Also what shares an instruction."""
    told = "You are one of many. Read what there is, think about the task, and say in one line what it is.\n\n{task}"
    profile = make_profile(
        role={"prompt": told},
        memory={"window": 128, "recall": 64},
        synapse={"landmarks": 24, "focus": 0},
        limits={"streams": 4, "stream_tail_tokens": 128},
    )
    session = Session(prism, profile)
    session.load_notes("\n".join(NOTES.splitlines()[:notes]))
    engine, river = session.conversation, session.river
    assert (river.past.base > 0) == (notes == 18)
    synapse = taken(session)
    taken(session)
    first, second = engine.crew.streams[1], engine.crew.streams[2]
    assert synapse.position == river.position == river.past.base + synapse.context
    told_to = second.work.reads.segments[-1]
    assert told_to is not synapse.segment and int(told_to.positions[0]) == synapse.position
    assert synapse.position == int(synapse.segment.positions.max()) + 1
    for stream, start in ((first, synapse.position), (second, int(told_to.positions[-1]) + 1)):
        assert stream.synapse is synapse and stream.tail is not None and stream.tail.length
        assert stream.tail.positions[0] == start
