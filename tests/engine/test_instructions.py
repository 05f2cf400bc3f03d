"""What a role is told is prefilled once for all its Streams, and changes nothing in what they write."""

from __future__ import annotations

import pytest

from tests.engine.conftest import make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine import instructions
from warpcortex_cli.engine.session import Session
from warpcortex_cli.memory.segment import Segment

TOLD = "You are one of many. Read what there is, think about the task, and say in one line what you found out.\n\n"


def told_and_written(prism, prompt: str, **changes) -> tuple[list[Segment | None], list[int], dict[int, str]]:
    """For each Stream: the shared beginning of its prompt, the tokens it prefilled itself; and what all wrote."""
    profile = make_profile(role={"prompt": prompt}, limits={"streams": 8, "stream_tail_tokens": 128}, **changes)
    session = Session(prism, profile)
    shared: list[Segment | None] = []
    prefilled: list[int] = []

    def listen(event: ev.Event) -> None:
        if isinstance(event, ev.StreamStarted):
            stream = session.stream(event.id)
            shared.append(stream.work.shared)
            prefilled.append(len(stream.work.pending))

    session.listen(listen)
    written: dict[int, str] = {}
    for event in run(session):
        if isinstance(event, ev.StreamText):
            written[event.id] = written.get(event.id, "") + event.text
    return shared, prefilled, written


def test_it_is_computed_once_and_held_once(prism) -> None:
    shared, prefilled, _ = told_and_written(prism, TOLD + "{task}", synapse={"landmarks": 24, "focus": 0})
    assert len(shared) > 2 and all(s is shared[1] for s in shared[1:])
    assert shared[1] is not None and shared[1].tokens > 20 and max(prefilled[1:]) < 16
    assert shared[0] is None and prefilled[0] > 20  # there might have been no second one


def test_what_streams_write_does_not_depend_on_the_sharing(prism, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, together = told_and_written(prism, TOLD + "{task}", synapse={"landmarks": 24, "focus": 0})
    monkeypatch.setattr(instructions, "SHARED_FROM", 10_000)
    shared, _, alone = told_and_written(prism, TOLD + "{task}", synapse={"landmarks": 24, "focus": 0})
    assert shared and not any(shared) and together == alone and any(together.values())


def test_a_new_synapse_is_read_by_new_instructions(prism) -> None:
    shared, _, _ = told_and_written(
        prism, TOLD + "{task}", synapse={"landmarks": 24, "focus": 0, "refresh_tokens": 9}, river={"max_tokens": 60}
    )
    assert len({id(s) for s in shared if s}) > 1


def test_few_words_are_not_shared(prism) -> None:
    shared, _, _ = told_and_written(prism, "help: {task}")
    assert shared and not any(shared)
