"""DESIGN.md, section 5, on the running engine."""

from __future__ import annotations

import copy
import gc
from itertools import pairwise

import pytest
import torch

from tests.engine.conftest import QUESTION, make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.injection import virtual_positions
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stream import FINAL
from warpcortex_cli.engine.workers.model import Writing


def river_text(events) -> str:
    return "".join(e.text for e in events if isinstance(e, ev.RiverText))


def ends(events) -> dict[int, list[str]]:
    out: dict[int, list[str]] = {}
    for e in events:
        if isinstance(e, ev.StreamEnded):
            out.setdefault(e.id, []).append(e.state)
    return out


def copies_of(model: torch.nn.Module) -> list[str]:
    """Matrices of weights that are in memory a second time: tensors elsewhere with the same numbers."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    others = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.device.type == "cpu"]
    others = [x for x in others if x.layout == torch.strided and x.untyped_storage().data_ptr() not in own]
    return [
        name
        for name, p in model.named_parameters()
        if p.dim() > 1
        and any(x.dtype == p.dtype and x.numel() == p.numel() and torch.equal(x.reshape(p.shape), p) for x in others)
    ]


def test_one_set_of_weights_whatever_the_number_of_agents(prism) -> None:
    before = {n: (p.data_ptr(), p.nbytes) for n, p in prism.model.named_parameters()}
    assert copies_of(prism.model) == []
    session = Session(prism, make_profile())
    seen: set[str] = set()
    for event in session.send(QUESTION):
        if isinstance(event, ev.StreamSpawned):
            seen.update(copies_of(prism.model))
    assert len(session.snapshot().streams) > 4 and not seen
    assert {n: (p.data_ptr(), p.nbytes) for n, p in prism.model.named_parameters()} == before
    another = copy.deepcopy(prism.model)  # what this test would see
    assert len(copies_of(prism.model)) > 20
    del another


def test_river_without_streams_equals_a_whole_forward_for_each_token(prism) -> None:
    session = Session(prism, make_profile(), streams=False)
    run(session)
    chat = prism.chat
    prompt = [*chat.opening(""), *chat.user_open(), *prism.encode(QUESTION), *chat.user_close()]
    mine = session.conversation.turn.builder.ids
    expected = prompt
    for _ in mine:  # greedy, one whole forward a token, on a tail of its own
        from warpcortex_cli.prism.rows import Row

        tail = prism.new_tail(None)
        result = prism.forward([Row(tokens=expected, positions=list(range(len(expected))), tail=tail)])[0]
        expected = [*expected, int(result.logits[-1].argmax())]
    assert mine == expected[len(prompt) :]


def test_every_stream_ends_exactly_once_and_events_are_in_order(prism) -> None:
    session = Session(prism, make_profile())
    events = run(session)
    spawned = [e.id for e in events if isinstance(e, ev.StreamSpawned)]
    assert len(spawned) > 4
    final = ends(events)
    assert sorted(final) == spawned
    assert all(len(states) == 1 and states[0] in FINAL for states in final.values())
    assert [e.seq for e in events] == list(range(len(events)))
    assert all(a.time <= b.time for a, b in pairwise(events))
    assert isinstance(events[-1], ev.RiverFinished)


def test_injection_changes_no_byte_and_no_position_of_the_river(prism) -> None:
    session = Session(prism, make_profile())
    engine = session.conversation
    river, seen = engine.river, []
    inject = engine.crew.entrance._inject

    def watched(injection) -> None:
        def kv() -> list[torch.Tensor]:
            return [t.clone() for i in range(prism.layers) for t in river.tail.layer(i)]

        before, position = kv(), river.position
        inject(injection)
        assert river.position == position
        assert all(torch.equal(a, b) for a, b in zip(before, kv(), strict=True))
        seen.append(injection)

    engine.crew.entrance._inject = watched
    events = run(session)
    assert seen and any(isinstance(e, ev.ThoughtInjected) for e in events)
    assert river.tail.positions.tolist() == list(range(river.position))
    assert "[Ref" not in river_text(events)
    for e in events:
        if isinstance(e, ev.ThoughtInjected):
            assert 0 <= e.first <= e.last < river.position


def test_an_injected_thought_changes_what_follows(prism) -> None:
    """The other half of injection: it must matter."""
    with_thoughts = Session(prism, make_profile())
    without = Session(prism, make_profile(injection={"enabled": False}))
    assert river_text(run(with_thoughts)) != river_text(run(without))


def test_an_aside_withdrawn_at_once_leaves_no_trace(prism) -> None:
    plain = Session(prism, make_profile(injection={"enabled": False}))
    session = Session(prism, make_profile())
    engine = session.conversation
    inject = engine.crew.entrance._inject

    def in_and_out(injection) -> None:
        inject(injection)
        engine.crew.entrance.withdraw(injection.stream.id, "undo")

    engine.crew.entrance._inject = in_and_out
    events = run(session)
    assert any(isinstance(e, ev.ThoughtWithdrawn) for e in events)
    assert river_text(events) == river_text(run(plain))


def test_a_stream_full_of_nan_fails_alone(prism) -> None:
    plain = Session(prism, make_profile(injection={"enabled": False}))
    expected = river_text(run(plain))
    session = Session(prism, make_profile(injection={"enabled": False}))
    start = Writing.start

    def poisoned(self) -> None:
        start(self)
        if self.number == 1 and self.tail.length:
            with torch.inference_mode():
                self.tail.layer(0)[1][:] = float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writing, "start", poisoned)
        events = run(session)
    assert ends(events)[1] == ["failed"]
    assert river_text(events) == expected
    assert any(states != ["failed"] for states in ends(events).values())


def test_an_exception_in_a_stream_row_never_reaches_the_river(prism) -> None:
    plain = river_text(run(Session(prism, make_profile(injection={"enabled": False}))))
    session = Session(prism, make_profile(injection={"enabled": False}))
    forward = prism.forward

    def failing(rows):
        if any(r.tail is s.tail for r in rows for s in session.streams if s.id == 2 and s.tail):
            raise RuntimeError("CUDA out of memory, or anything else")
        return forward(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prism, "forward", failing)
        events = run(session)
    assert ends(events)[2] == ["failed"]
    assert river_text(events) == plain


def test_the_same_seed_gives_the_same_run(prism) -> None:
    hot = {"sampling": {"temperature": 0.9, "top_p": 0.95}, "stream_sampling": {"temperature": 0.8}}

    def trace(seed: int) -> list:
        events = run(Session(prism, make_profile(**hot), seed=seed))
        return [(e.name, getattr(e, "text", None), getattr(e, "id", None)) for e in events]

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)


def test_memory_is_counted_to_the_byte_and_given_back(prism) -> None:
    session = Session(prism, make_profile())
    run(session)
    view = session.snapshot()
    assert view.synapse and view.synapse.bytes == view.synapse.landmarks * prism.layout.bytes_per_token
    started = [s for s in view.streams if s.kv_bytes]
    assert started and all(s.kv_bytes == 64 * prism.layout.bytes_per_token for s in started)
    assert session.conversation.crew.writer.tails_in_use == 0


@pytest.mark.parametrize(
    ("position", "tokens", "expected"), [(10, 3, [7, 8, 9]), (2, 4, [0, 1, 2, 3]), (5, 5, [0, 1, 2, 3, 4])]
)
def test_virtual_positions_end_at_the_river(position: int, tokens: int, expected: list[int]) -> None:
    assert virtual_positions(position, tokens) == expected
