"""The ledger: a withheld thought leaves the run that never had it, and what is named as changed is the difference."""

from __future__ import annotations

from tests.engine.conftest import QUESTION, make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.ledger import Ledger, changed_words
from warpcortex_cli.engine.session import Session


def river_text(events: list[ev.Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, ev.RiverText))


def test_each_injected_thought_has_an_entry_and_a_replay_without_it(prism) -> None:
    def again() -> Session:
        return Session(prism, make_profile(river={"max_tokens": 24}))

    session = again()
    ledger = Ledger(session, again)
    events = run(session)
    text = river_text(events)
    entries = ledger.entries(QUESTION, text)
    assert [e.stream for e in entries] == sorted(e.id for e in events if isinstance(e, ev.ThoughtInjected))
    for entry in entries:
        assert entry.thought and entry.landmarks and entry.gate_reason
        assert entry.changed == changed_words(entry.without, text)
    # The first thought withheld: until the River could have attended to it, both runs are the same.
    first = next(i for i, e in enumerate(events) if isinstance(e, ev.ThoughtInjected))
    withheld = next(e for e in entries if e.stream == events[first].id)
    assert withheld.without.startswith(river_text(events[:first]))
    assert any(e.changed for e in entries)


def test_changed_words_are_those_that_are_new_at_their_place() -> None:
    assert changed_words("In total: 133.", "In total: 59.") == ("59.",)
    assert changed_words("a b c", "a b c") == ()
    assert changed_words("", "a b") == ("a", "b")


def test_what_a_stream_read_is_named_also_where_the_river_has_a_past(prism) -> None:
    session = Session(prism, make_profile(memory={"window": 128, "recall": 64}, river={"max_tokens": 8}))
    ledger = Ledger(session, lambda: session)
    session.load_notes("Mara keeps ropes. " * 40 + "Otto has lamps. " * 40)
    run(session, "So?")
    assert ledger._read
    for landmarks, _ in ledger._read.values():
        assert "So?" in landmarks and "Mara" not in landmarks  # the newest tokens are always kept
