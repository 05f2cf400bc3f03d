"""Positions are data: keys can be moved, and only distances count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.prism.prism import Prism, Row

TOKENS = [4 + 11 * i % 300 for i in range(9)]
SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLACES = st.integers(0, 400)


def written_at(prism: Prism, start: int) -> Segment:
    tail = prism.new_tail(len(TOKENS))
    prism.forward([Row(TOKENS, list(range(start, start + len(TOKENS))), tail, logits="none")])
    return tail.freeze(0, len(TOKENS))


@pytest.mark.parametrize(("start", "end"), [(0, 100), (377, 2)])
def test_moved_segments_equal_recomputed_ones(
    architecture: str, start: int, end: int, make_prism: Callable[[str], Prism]
) -> None:
    prism = make_prism(architecture)
    want = written_at(prism, end)
    got = written_at(prism, start).moved(prism.rope, want.positions)
    assert torch.equal(got.positions, want.positions)
    for layer in range(prism.layers):
        torch.testing.assert_close(got.keys[layer], want.keys[layer], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.values[layer], want.values[layer], rtol=1e-4, atol=1e-4)


def test_a_long_context_is_turned_in_parts(
    architecture: str, make_prism: Callable[[str], Prism], monkeypatch: pytest.MonkeyPatch
) -> None:
    prism = make_prism(architecture)
    segment = written_at(prism, 3)
    whole = prism.rope.unrotated(segment.keys, segment.positions)
    monkeypatch.setattr("warpcortex_cli.prism.rope._PART", 2 * prism.kv_heads * prism.head_dim)
    parts, apply = [], prism.rope.apply
    monkeypatch.setattr(prism.rope, "apply", lambda keys, *a: parts.append(keys.shape[1]) or apply(keys, *a))
    turn = prism.rope.turning(-segment.positions)
    for layer, key in enumerate(segment.keys):
        room = torch.full_like(key, torch.nan, dtype=torch.float64)
        assert turn(layer, key, room) is room
        assert torch.equal(room.to(key.dtype), whole[layer])
        assert torch.equal(turn(layer, key), whole[layer])
    assert parts and set(parts) == {1, 2} and sum(parts) == 2 * prism.layers * len(TOKENS)


def test_heads_move_apart(architecture: str, make_prism: Callable[[str], Prism]) -> None:
    prism = make_prism(architecture)
    segment = written_at(prism, 0)
    by = torch.arange(prism.layers * prism.kv_heads).view(prism.layers, prism.kv_heads, 1) * 5
    turned = prism.rope.turn(segment.keys, by.expand(-1, -1, len(TOKENS)))
    for layer in range(prism.layers):
        for head in range(prism.kv_heads):
            together = prism.rope.turn(segment.keys, torch.full((len(TOKENS),), int(by[layer, head, 0])))
            torch.testing.assert_close(turned[layer][head], together[layer][head])


@SETTINGS
@given(a=PLACES, b=PLACES)
def test_turns_add_up_and_can_be_taken_back(prism: Prism, a: int, b: int) -> None:
    keys = written_at(prism, 0).keys

    def by(positions: int) -> torch.Tensor:
        return torch.full((len(TOKENS),), positions)

    twice = prism.rope.turn(prism.rope.turn(keys, by(a)), by(b))
    once = prism.rope.turn(keys, by(a + b))
    back = prism.rope.unrotated(once, by(a + b))
    for layer in range(prism.layers):
        torch.testing.assert_close(twice[layer], once[layer], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(back[layer], keys[layer], rtol=1e-3, atol=1e-3)


@SETTINGS
@given(start=PLACES, gap=st.integers(0, 90))
def test_only_distances_count(prism: Prism, start: int, gap: int) -> None:
    """A row that reads a segment from `gap` positions behind it answers the same wherever both stand."""

    def answer(first: int) -> torch.Tensor:
        segment = written_at(prism, 0).moved(prism.rope, torch.arange(first, first + len(TOKENS)))
        at = first + len(TOKENS) + gap
        logits = prism.forward([Row([8, 9], [at, at + 1], prism.new_tail(2), (segment,))])[0].logits
        assert logits is not None
        return logits

    torch.testing.assert_close(answer(start), answer(0), rtol=1e-3, atol=1e-3)


def test_moving_shares_values_and_leaves_the_segment_alone(prism: Prism) -> None:
    segment = written_at(prism, 0)
    keys = [k.clone() for k in segment.keys]
    moved = segment.moved(prism.rope, segment.positions + 7)
    assert moved.values[0] is segment.values[0]
    assert all(torch.equal(a, b) for a, b in zip(keys, segment.keys, strict=True))
