"""Injected thoughts in one piece, against joining them anew, whichever come, go and move; each is held once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.engine.asides import Aside, Asides, virtual_positions
from warpcortex_cli.memory.segment import Readable, Segment
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism


class Ground:
    """Where the River's tokens stand: the token of number n at n + `by`."""

    by = 0

    def __call__(self, token: int) -> int:
        return token + self.by


def aside(prism: Prism, number: int, tokens: int, anchor: int) -> Aside:
    """One whose values are its number, offered when the River's tokens stood at their numbers."""
    torch.manual_seed(number)
    shape = prism.kv_heads, tokens, prism.head_dim
    keys = prism.rope.turn(
        [torch.randn(shape) for _ in range(prism.layers)], torch.tensor(virtual_positions(anchor, tokens))
    )
    values = [torch.full(shape, float(number)) for _ in range(prism.layers)]
    positions = torch.tensor(virtual_positions(anchor, tokens))
    return Aside(number, f"thought {number}", anchor, Segment(tuple(keys), tuple(values), positions))


def whole(prism: Prism, kv: Readable) -> torch.Tensor:
    """Keys without positions, and values, of all layers."""
    layers = [kv.layer(i) for i in range(kv.layers)]
    keys = prism.rope.unrotated([k for k, _ in layers], kv.positions)
    return torch.stack([*keys, *(v for _, v in layers)])


def look(prism: Prism, asides: Asides) -> tuple[list[int], list[int]]:
    """The number of each token that is read, and its position."""
    views = asides.view()
    numbers = [int(n) for v in views for n in v.layer(1)[1][0, :, 0].tolist()]
    return numbers, [p for v in views for p in v.positions.tolist()]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), unique=True), st.integers(-9, 9)), max_size=8),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 60)), min_size=10, max_size=10),
)
@settings(max_examples=60, deadline=None)
def test_it_is_always_what_was_asked_for_and_earlier_views_stay(
    prism, asked: list[tuple[list[int], int]], sizes: list[tuple[int, int]]
) -> None:
    ground = Ground()
    all_of_them = [aside(prism, n, *size) for n, size in enumerate(sizes)]
    known = [whole(prism, a.kv) for a in all_of_them]
    asides, seen = Asides(prism, ground), []
    for which, by in asked:
        ground.by += by
        asides.keep(all_of_them[n] for n in which)
        numbers, positions = look(prism, asides)
        assert numbers == [n for n in which for _ in range(sizes[n][0])]
        assert positions == [p for n in which for p in virtual_positions(max(0, sizes[n][1] + ground.by), sizes[n][0])]
        seen.append((asides.view(), [v.layer(0)[0].clone() for v in asides.view()]))
        for one, before in zip(all_of_them, known, strict=True):
            torch.testing.assert_close(whole(prism, one.kv), before, atol=1e-3, rtol=0)
    for views, before in seen:
        assert all(torch.equal(v.layer(0)[0], b) for v, b in zip(views, before, strict=True))


def test_each_is_held_once_and_counted_once(prism) -> None:
    """What came in is copied into the piece and forgotten; the piece is forgotten when all have left it for another."""
    asides, ground = Asides(prism, Ground()), 40
    mine = [aside(prism, n, 3, ground) for n in range(5)]
    came = [weakref.ref(a.kv.keys[0]) for a in mine]  # type: ignore[attr-defined]
    for n in range(5):
        asides.keep(mine[: n + 1])
    gc.collect()
    assert not any(ref() is not None for ref in came)
    assert asides.nbytes == 15 * prism.layout.bytes_per_token
    room = weakref.ref(asides.view()[0].tail)
    kept = mine.pop(1)  # withdrawn; somebody may go back to it
    asides.keep(mine)
    gc.collect()
    assert room() is None and asides.nbytes == 15 * prism.layout.bytes_per_token and asides.tokens == 12
    assert kept.kv.tokens == 3
    del kept
    gc.collect()
    assert asides.nbytes == 12 * prism.layout.bytes_per_token


def test_what_is_new_is_put_behind_the_rest(prism) -> None:
    asides, mine = Asides(prism, Ground()), [aside(prism, n, 3, 40) for n in range(6)]
    tails = []
    for n in (2, 3, 6):
        asides.keep(mine[:n])
        tails.append(asides.view()[0].tail)
    assert len(set(map(id, tails))) == 1


def test_a_budget_that_lets_the_first_go_for_each_new_one_copies_a_token_now_and_then(prism) -> None:
    asides, mine = Asides(prism, Ground()), [aside(prism, n, 10, 40) for n in range(300)]
    tails: list[Tail] = []
    for first in range(300 - 30):
        asides.keep(mine[first : first + 30])
        view = asides.view()[0]
        assert look(prism, asides)[0] == [n for n in range(first, first + 30) for _ in range(10)]
        if not tails or tails[-1] is not view.tail:
            tails.append(view.tail)
        assert view.tail.capacity <= 1024
    assert len(tails) <= 1 + 3000 // 512


@pytest.mark.parametrize("behind", [False, True])
def test_without_memory_for_a_new_one_all_is_as_it_was(prism, monkeypatch, behind: bool) -> None:
    asides, mine = Asides(prism, Ground()), [aside(prism, n, 3, 40) for n in range(6)]
    asides.keep(mine[:4])
    before = look(prism, asides)
    append = Tail.append
    left = 1

    def out_of_memory(self: Tail, *kv: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("not enough memory")
        append(self, *kv)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Tail, "append", out_of_memory)
        asides.keep([*mine[:4], *mine[4:]] if behind else [mine[0], *mine[2:]])
    assert look(prism, asides) == before and len(asides) == 4
    asides.keep([mine[0], *mine[2:]])
    assert look(prism, asides)[0] == [n for n in (0, 2, 3, 4, 5) for _ in range(3)]
