"""The roster remembers the newest Streams as they were, and of the others how they ended."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.engine.conftest import make_profile
from warpcortex_cli.engine.roster import Roster
from warpcortex_cli.engine.states import FINAL
from warpcortex_cli.engine.stream import Stream


@given(ends=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(sorted(FINAL))), max_size=30), kept=st.integers(0, 5))
def test_none_is_lost_and_no_more_than_asked_are_kept(prism, ends: list[tuple[int, str]], kept: int) -> None:
    role = make_profile().roles[0]
    roster = Roster(kept)
    ended: Counter[str] = Counter()
    for place, state in ends:
        roster.add(Stream(roster.spawned + 1, role, "t", {}, 0.0))
        if place < len(roster.alive):
            stream = roster.alive[place]
            if state == "injected":
                stream.state = "gating"
            stream.state = state
            roster.close(stream)
            ended[state] += 1
    listed = list(roster)
    assert [s.id for s in listed] == sorted(s.id for s in listed)
    assert all(roster[s.id] is s for s in listed) and all(s in listed for s in roster.alive)
    assert sum(s.final for s in listed) == min(kept, ended.total())
    assert Counter(s.state for s in listed if s.final) + roster.forgotten == ended
    assert roster.spawned == len(roster.alive) + ended.total() == len(ends)
    assert roster.since(roster.spawned - 2) == [s for s in listed if s.id > roster.spawned - 2]
