"""Segments in one piece, against joining them anew, whichever come and go."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.test_tail import LAYOUT, marks_of, tensors
from warpcortex_cli.memory.joined import Joined
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail, TailView


def segment(first: int, tokens: int) -> Segment:
    keys, values, positions = tensors(list(range(first, first + tokens)))
    return Segment(tuple(keys), tuple(values), positions)


def held(view: TailView) -> list[int]:
    return marks_of([view.layer(i) for i in range(LAYOUT.layers)], view.positions)


@given(st.lists(st.lists(st.integers(0, 9), unique=True), max_size=8), st.lists(st.integers(1, 5), min_size=10))
@settings(max_examples=150, deadline=None)
def test_it_is_always_what_was_asked_for_and_earlier_views_stay(asked: list[list[int]], sizes: list[int]) -> None:
    segments = [segment(100 * i, sizes[i]) for i in range(10)]
    piece, seen = Joined(LAYOUT), []
    for which in asked:
        view = piece.read([segments[i] for i in which])
        assert held(view) == [100 * i + t for i in which for t in range(sizes[i])]
        seen.append((view, held(view)))
    assert all(held(view) == before for view, before in seen)


def test_what_is_new_is_put_behind_the_rest() -> None:
    piece, segments = Joined(LAYOUT), [segment(10 * i, 3) for i in range(6)]
    views = [piece.read(segments[:n]) for n in (2, 3, 6)]
    assert len({id(v.tail) for v in views}) == 1


def test_a_budget_that_lets_the_first_go_for_each_new_one_copies_a_token_now_and_then() -> None:
    piece, segments = Joined(LAYOUT), [segment(10 * i, 10) for i in range(400)]
    tails: list[Tail] = []
    for first in range(400 - 30):
        view = piece.read(segments[first : first + 30])
        assert held(view) == list(range(10 * first, 10 * first + 300))
        if not tails or tails[-1] is not view.tail:
            tails.append(view.tail)
        assert view.tail.capacity <= 1024
    assert len(tails) <= 1 + 4000 // 512


def test_where_one_has_left_the_others_are_not_joined_one_by_one(monkeypatch) -> None:
    """That is one copy, however many there are."""
    piece, segments = Joined(LAYOUT), [segment(10 * i, 3) for i in range(50)]
    piece.read(segments[:49])
    appended: list[int] = []
    append = Tail.append

    def counted(self: Tail, keys: list[torch.Tensor], values: list[torch.Tensor], positions: torch.Tensor) -> None:
        appended.append(len(positions))
        append(self, keys, values, positions)

    monkeypatch.setattr(Tail, "append", counted)
    piece.read([*segments[:7], *segments[8:]])
    assert appended == [3 * 7, 3 * 41, 3]
