"""Invariants 3, 7 and 8: packed rows are what they would be alone, whatever their neighbours hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from warpcortex_cli.memory.segment import Segment, join
from warpcortex_cli.memory.tail import Tail, TailView
from warpcortex_cli.prism.prism import Prism, Row, RowResult

CONTEXT = [4 + 7 * i % 300 for i in range(30)]
PROMPTS = [[10, 11, 12], [20, 21, 22], [30], [40, 41, 42, 43, 44], [50, 51], [60, 61, 62]]


def read(prism: Prism, tokens: list[int], start: int = 0) -> Tail:
    """A tail that holds `tokens`, from position `start` on."""
    tail = prism.new_tail(None)
    prism.forward([Row(tokens, list(range(start, start + len(tokens))), tail, logits="none")])
    return tail


def logits_of(result: RowResult) -> Tensor:
    assert result.logits is not None
    return result.logits


def streams(
    prism: Prism, context: Segment, *, river: Tail | None = None, steps: int = 4, slots: int = 16
) -> list[list[Tensor]]:
    """Prefills all prompts in one step, then decodes them together; per Stream the logits of each step."""
    pool = prism.new_pool(32, slots)
    tails = [pool.take() for _ in PROMPTS][::-1]  # rows come in another order than their slots
    tokens = [list(p) for p in PROMPTS]
    seen: list[list[Tensor]] = [[] for _ in PROMPTS]
    for step in range(steps):
        rows = []
        for tail, ids in zip(tails, tokens, strict=True):
            new = ids if step == 0 else ids[-1:]
            at = context.tokens + tail.length
            rows.append(Row(list(new), list(range(at, at + len(new))), tail, (context,)))
        if river is not None:
            rows.insert(2, Row([9], [river.length], river))
        results = prism.forward(rows)
        if river is not None:
            del results[2]
        for own, ids, result in zip(seen, tokens, results, strict=True):
            own.append(logits_of(result)[0])
            ids.append((7 * ids[-1] + step) % 300 + 4)
    return seen


@pytest.mark.parametrize("slots", [16, 4], ids=["one slab", "two slabs"])
def test_batched_streams_equal_unbatched_forwards(
    architecture: str,
    slots: int,
    make_prism: Callable[[str], Prism],
    reference: Callable[[str], PreTrainedModel],
) -> None:
    prism = make_prism(architecture)
    river = read(prism, CONTEXT)
    seen = streams(prism, river.freeze(0, len(CONTEXT)), river=river, slots=slots)
    for prompt, logits in zip(PROMPTS, seen, strict=True):
        ids = list(prompt)
        for step, got in enumerate(logits):
            with torch.inference_mode():
                want = reference(architecture)(input_ids=torch.tensor([CONTEXT + ids])).logits[0, -1]
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
            ids.append((7 * ids[-1] + step) % 300 + 4)


def test_a_view_of_a_tail_reads_like_a_copy_of_it(prism: Prism) -> None:
    river = read(prism, CONTEXT)
    answers = [
        logits_of(prism.forward([Row([5, 6], [30, 31], prism.new_tail(4), reads)])[0])
        for reads in (
            (river.view(30),),
            (river.freeze(0, 30),),
            (join([river.freeze(0, 11), river.freeze(11, 30)]),),
            (TailView(river, 11), TailView(river, 19, 11)),
        )
    ]
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0])


def test_empty_parts_change_nothing(prism: Prism) -> None:
    empty = prism.new_tail(None)
    alone, beside = (
        logits_of(prism.forward([Row([5, 6], [0, 1], prism.new_tail(2), reads)])[0])
        for reads in ((), (empty.view(0), empty.freeze(0, 0)))
    )
    assert torch.equal(alone, beside)


def test_a_view_does_not_grow_with_its_tail(prism: Prism) -> None:
    river = read(prism, CONTEXT)
    view = river.view(30)
    alone = logits_of(prism.forward([Row([5], [30], prism.new_tail(4), (view,))])[0])
    rows = [Row([77] * 300, list(range(30, 330)), river), Row([5], [30], prism.new_tail(4), (view,))]
    together = logits_of(prism.forward(rows)[1])  # the River's buffers grow in this very step
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_segments_with_positions_per_head_read_as_the_whole(
    architecture: str, make_prism: Callable[[str], Prism]
) -> None:
    """Landmarks with k = L are the context, in whatever order each head keeps them."""
    prism = make_prism(architecture)
    whole = read(prism, CONTEXT).freeze(0, len(CONTEXT))
    shape = (prism.layers, prism.kv_heads, len(CONTEXT))
    order = torch.rand(shape, generator=torch.Generator().manual_seed(3)).argsort(-1)
    shuffled = Segment(
        keys=tuple(k.gather(1, o[..., None].expand_as(k)) for k, o in zip(whole.keys, order, strict=True)),
        values=tuple(v.gather(1, o[..., None].expand_as(v)) for v, o in zip(whole.values, order, strict=True)),
        positions=order,
    )
    for got, want in zip(streams(prism, shuffled), streams(prism, whole), strict=True):
        torch.testing.assert_close(torch.stack(got), torch.stack(want), rtol=1e-4, atol=1e-4)


def canary(prism: Prism, spoil: Callable[[Tail], None]) -> list[Tensor]:
    """Logits of five decode rows and a River row, after something was done to the tail of the third."""
    river = read(prism, CONTEXT)
    segment = river.freeze(0, 30)
    pool = prism.new_pool(16)
    tails = [pool.take() for _ in range(5)]
    prism.forward(
        [Row([10 + i] * (1 + i % 3), list(range(30, 31 + i % 3)), t, (segment,)) for i, t in enumerate(tails)]
    )
    spoil(tails[2])
    rows = [Row([9], [30 + t.length], t, (segment,)) for t in tails]
    return [logits_of(r)[0] for r in prism.forward([*rows, Row([9], [30], river)])]


def test_a_canary_changes_no_other_row(architecture: str, make_prism: Callable[[str], Prism]) -> None:
    def scramble(tail: Tail) -> None:
        with torch.inference_mode():
            for keys, values in (tail.layer(i) for i in range(tail.slab.layout.layers)):
                keys.add_(1.5)
                values.mul_(-3)

    prism = make_prism(architecture)
    clean, spoilt = canary(prism, lambda tail: None), canary(prism, scramble)
    assert not torch.equal(clean[2], spoilt[2])
    for row in (0, 1, 3, 4, 5):
        assert torch.equal(clean[row], spoilt[row])


def test_nan_stays_in_its_row_and_leaves_with_it(prism: Prism) -> None:
    def poison(tail: Tail) -> None:
        with torch.inference_mode():
            tail.layer(0)[0].fill_(float("nan"))

    clean, spoilt = canary(prism, lambda tail: None), canary(prism, poison)
    assert spoilt[2].isnan().all()
    for row in (0, 1, 3, 4, 5):
        assert torch.equal(clean[row], spoilt[row])

    pool = prism.new_pool(16)
    first, second = pool.take(), pool.take()
    prism.forward([Row([5] * 9, list(range(9)), first)])
    poison(first)
    first.release()
    again = pool.take()
    assert again.slot == first.slot
    rows = [Row([5], [0], again), Row([6] * 9, list(range(9)), second)]
    prism.forward(rows)
    # Now the shorter tail's slot is multiplied up to the longer one's length.
    assert all(logits_of(r).isfinite().all() for r in prism.forward([Row([5], [1], again), Row([6], [9], second)]))


@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (1, 2, 5), (0, 15)], ids=["solid", "holes", "far apart"])
def test_holes_between_slots_do_not_matter(prism: Prism, kept: tuple[int, ...]) -> None:
    pool = prism.new_pool(16)
    tails = [pool.take() for _ in range(16)]
    for i, tail in enumerate(tails):
        prism.forward([Row([10 + i] * (1 + i % 3), list(range(1 + i % 3)), tail)])
    copies = {i: prism.new_tail(16) for i in kept}
    for i, copy in copies.items():
        copy.copy_from(tails[i], torch.arange(tails[i].length))
    together = prism.forward([Row([9], [tails[i].length], tails[i]) for i in kept])
    for i, result in zip(kept, together, strict=True):
        alone = prism.forward([Row([9], [copies[i].length], copies[i])])[0]
        torch.testing.assert_close(logits_of(result), logits_of(alone), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tails[i].layer(1)[0], copies[i].layer(1)[0], rtol=1e-4, atol=1e-4)


def test_long_prefills_take_their_queries_in_pieces(prism: Prism, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Tensor:
        river = read(prism, CONTEXT)
        rows = [Row([5 + i] * 9, list(range(30, 39)), prism.new_tail(9), (river.view(30),), "all") for i in range(2)]
        return torch.cat([logits_of(r) for r in prism.forward(rows)])

    whole = run()
    monkeypatch.setattr("warpcortex_cli.prism.step.MAX_SCORES", 300)
    torch.testing.assert_close(run(), whole, rtol=1e-3, atol=1e-4)
