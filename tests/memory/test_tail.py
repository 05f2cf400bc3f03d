"""Tails against a plain list: append, truncate, freeze, view, copy, release, in any order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from torch import Tensor

from warpcortex_cli.memory.room import Room
from warpcortex_cli.memory.segment import KVLayout, Segment, join
from warpcortex_cli.memory.tail import FIRST_CAPACITY, Slab, Tail, TailPool

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=3, dtype=torch.float32, device=torch.device("cpu"))
CAPACITY = 12


def tensors(marks: list[int]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Keys, values and positions of tokens that are recognisable by a number each."""
    base = torch.tensor(marks, dtype=torch.float32)[None, :, None] * torch.ones(2, 1, 3)
    return [base, base + 0.25], [base + 0.5, base + 0.75], torch.tensor(marks, dtype=torch.long)


def marks_of(layers: list[tuple[Tensor, Tensor]], positions: Tensor) -> list[int]:
    """The numbers of the tokens, after checking that every layer, head and dimension agrees with them."""
    marks: list[int] = positions.tolist()
    keys, values, _ = tensors(marks)
    for (k, v), want_k, want_v in zip(layers, keys, values, strict=True):
        assert torch.equal(k, want_k) and torch.equal(v, want_v)
    return marks


def held(tail: Tail) -> list[int]:
    return marks_of([tail.layer(i) for i in range(LAYOUT.layers)], tail.positions)


def in_segment(segment: Segment) -> list[int]:
    return marks_of([segment.layer(i) for i in range(LAYOUT.layers)], segment.positions)


class Tails(RuleBasedStateMachine):
    """A pool's tails, each beside the list of numbers that it should hold."""

    tails = Bundle("tails")

    def __init__(self) -> None:
        super().__init__()
        self.pool = TailPool(LAYOUT, CAPACITY, slots=3)
        self.lists: dict[Tail, list[int]] = {}
        self.frozen: list[tuple[Segment, list[int]]] = []
        self.next = 1

    @rule(target=tails)
    def take(self) -> Tail:
        tail = self.pool.take()
        assert tail.length == 0 and tail.capacity == CAPACITY
        for buffer in tail.slab.rooms:
            assert not buffer.data[tail.slot].any(), "a slot comes back empty"
        self.lists[tail] = []
        return tail

    @rule(tail=tails, count=st.integers(1, 7))
    def append(self, tail: Tail, count: int) -> None:
        marks = list(range(self.next, self.next + count))
        self.next += count
        if len(self.lists[tail]) + count > CAPACITY:
            with pytest.raises(ValueError, match="full"):
                tail.append(*tensors(marks))
            return
        tail.append(*tensors(marks))
        self.lists[tail] += marks

    @rule(tail=tails, data=st.data())
    def truncate(self, tail: Tail, data: st.DataObject) -> None:
        length = data.draw(st.integers(0, tail.length))
        tail.truncate(length)
        del self.lists[tail][length:]
        assert not tail.slab.keys[0][tail.slot, :, length:].any()

    @rule(tail=tails, data=st.data())
    def freeze(self, tail: Tail, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, tail.length))
        end = data.draw(st.integers(start, tail.length))
        self.frozen.append((tail.freeze(start, end), self.lists[tail][start:end]))

    @rule(tail=tails, data=st.data())
    def view(self, tail: Tail, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, tail.length))
        view = tail.view(count)
        assert marks_of([view.layer(i) for i in range(2)], view.positions) == self.lists[tail][:count]
        assert view == tail.view(count) and hash(view) == hash(tail.view(count))

    @precondition(lambda self: len(self.lists) > 1)
    @rule(source=tails, into=tails, data=st.data())
    def copy(self, source: Tail, into: Tail, data: st.DataObject) -> None:
        if source is into or not source.length or into.length == CAPACITY:
            return
        room = min(3, CAPACITY - into.length)
        chosen = data.draw(st.lists(st.integers(0, source.length - 1), min_size=1, max_size=room))
        into.copy_from(source, torch.tensor(chosen))
        self.lists[into] += [self.lists[source][i] for i in chosen]

    @rule(tail=consumes(tails))
    def release(self, tail: Tail) -> None:
        tail.release()
        tail.release()
        del self.lists[tail]
        with pytest.raises(ValueError, match="released"):
            tail.reserve(1)

    @invariant()
    def everything_is_where_it_should_be(self) -> None:
        assert self.pool.taken == len(self.lists)
        assert len({(id(t.slab), t.slot) for t in self.lists}) == len(self.lists), "two tails share a slot"
        slabs = {t.slab for t in self.lists}
        assert self.pool.nbytes <= max(1, len(slabs)) * 3 * CAPACITY * LAYOUT.bytes_per_token
        for tail, marks in self.lists.items():
            assert held(tail) == marks
            assert tail.length * tail.slab.bytes_per_token == len(marks) * LAYOUT.bytes_per_token
        for segment, marks in self.frozen:
            assert in_segment(segment) == marks


TestTails = Tails.TestCase
TestTails.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=5), st.integers(0, 100), st.booleans())
def test_a_growing_tail_keeps_its_tokens(pieces: list[int], cut: int, apart: bool) -> None:
    tail = Tail(Slab(LAYOUT, 1, FIRST_CAPACITY, apart=apart), growing=True)
    marks: list[int] = []
    for count in pieces:
        new = list(range(len(marks) + 1, len(marks) + count + 1))
        tail.append(*tensors(new))
        marks += new
        tail.truncate(max(0, tail.length - cut))
        del marks[tail.length :]
    assert held(tail) == marks
    assert FIRST_CAPACITY <= tail.capacity <= max(FIRST_CAPACITY, 2 * sum(pieces) + 2 * FIRST_CAPACITY)
    assert tail.nbytes == tail.capacity * LAYOUT.bytes_per_token


@pytest.mark.parametrize("fails", range(4))
def test_a_tail_that_cannot_grow_stays_whole(fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tail = Tail(Slab(LAYOUT, 1, CAPACITY, apart=True), growing=True)
    tail.append(*tensors(list(range(1, CAPACITY + 1))))
    make, made = tail.slab._block, 0

    def room(capacity: int) -> Room:
        nonlocal made
        made += 1
        if made == fails + 1:
            raise RuntimeError("can't allocate memory")
        return make(capacity)

    monkeypatch.setattr(tail.slab, "_block", room)
    with pytest.raises(RuntimeError, match="allocate"):
        tail.append(*tensors([CAPACITY + 1]))
    assert held(tail) == list(range(1, CAPACITY + 1)) and tail.capacity == CAPACITY
    assert {r.data.shape[2] for r in tail.slab.rooms} == {CAPACITY}
    tail.append(*tensors([CAPACITY + 1]))
    assert held(tail) == list(range(1, CAPACITY + 2))


def test_counted_bytes_are_those_of_the_formula() -> None:
    pool = TailPool(LAYOUT, CAPACITY, slots=4)
    tail = pool.take()
    tail.append(*tensors([1, 2, 3]))
    token = 2 * 2 * 2 * 3 * 4  # keys and values, layers, heads, dimensions, bytes
    assert tail.nbytes == CAPACITY * token and tail.slab.bytes_per_token == token
    assert tail.freeze(0, 3).nbytes == 3 * token
    slab = tail.slab
    assert pool.nbytes == slab.nbytes == sum(t.data.nbytes for t in slab.rooms) == 4 * CAPACITY * token


def test_ten_thousand_tails_end_with_the_memory_they_began_with() -> None:
    pool = TailPool(LAYOUT, 4, slots=8)
    alive: list[Tail] = []
    for number in range(10_000):
        alive.append(pool.take())
        if len(alive) > 20:
            alive.pop(number * 7 % len(alive)).release()
    assert pool.nbytes <= 4 * 8 * 4 * LAYOUT.bytes_per_token
    for tail in alive:
        tail.release()
    assert pool.nbytes == 0 and pool.taken == 0


@pytest.mark.parametrize(
    "call", [lambda t: t.view(4), lambda t: t.truncate(4), lambda t: t.freeze(2, 4), lambda t: t.freeze(2, 1)]
)
def test_tokens_that_are_not_there(call: object) -> None:
    tail = TailPool(LAYOUT, CAPACITY).take()
    tail.append(*tensors([1, 2, 3]))
    with pytest.raises(ValueError):
        call(tail)  # type: ignore[operator]


def test_joined_segments_hold_all_tokens_in_order() -> None:
    tail = Tail(Slab(LAYOUT, 1, CAPACITY))
    tail.append(*tensors([1, 2, 3, 4, 5]))
    joined = join([tail.freeze(3, 5), tail.freeze(0, 2)])
    assert in_segment(joined) == [4, 5, 1, 2]
    with pytest.raises(ValueError):
        join([])


def test_a_finished_tail_becomes_a_segment_without_a_copy() -> None:
    tail = Tail(Slab(LAYOUT, 1, 3))
    tail.append(*tensors([4, 5, 6]))
    segment = tail.segment()
    assert in_segment(segment) == [4, 5, 6]
    assert segment.keys[0].data_ptr() == tail.slab.keys[0].data.data_ptr()


@pytest.mark.parametrize("apart", [False, True])
def test_rooms_lie_in_one_piece_of_memory_unless_they_grow_one_by_one(apart: bool) -> None:
    pieces = {room.data.untyped_storage().data_ptr() for room in Slab(LAYOUT, 2, CAPACITY, apart=apart).rooms}
    assert len(pieces) == (2 * LAYOUT.layers if apart else 1)
