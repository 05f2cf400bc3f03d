"""What rows read is one value: it makes the rows, keeps them in their bound, and says what it is."""

from __future__ import annotations

import pytest
import torch

from warpcortex_cli.prism.reads import Reads
from warpcortex_cli.prism.rows import Row


def filled(prism, count: int):  # type: ignore[no-untyped-def]
    tail = prism.new_tail(64)
    prism.forward([Row(list(range(2, 2 + count)), list(range(count)), tail, logits="none")])
    return tail


def test_its_row_reads_the_parts_in_their_order_from_its_position_on(prism) -> None:  # type: ignore[no-untyped-def]
    one, other = filled(prism, 5), filled(prism, 3)
    reads = Reads((("of a tail", one.view(5)), ("shared", other.freeze(0, 3))), 8, 20)
    assert reads.tokens == 8 and str(reads) == "5 of a tail + 3 shared, at position 8, at most 20 tokens"
    row = reads.row([7, 8, 9], prism.new_tail(4), "all", queries=True)
    assert row.reads == reads.segments and row.positions == [8, 9, 10]
    assert (row.tokens, row.logits, row.queries, row.logsumexp) == ([7, 8, 9], "all", True, False)
    by_hand = Row([7, 8, 9], [8, 9, 10], prism.new_tail(4), (one.view(5), other.freeze(0, 3)), "all")
    mine, theirs = (prism.forward([r])[0].logits for r in (row, by_hand))
    assert mine is not None and theirs is not None and torch.allclose(mine, theirs, atol=1e-5)
    assert reads.row([7], prism.new_tail(4), positions=[3]).positions == [3]


def test_a_row_beyond_its_bound_is_not_made(prism) -> None:  # type: ignore[no-untyped-def]
    """The tail that it is written to counts, too."""
    reads = Reads((("of a tail", filled(prism, 5).view(5)),), 5, 10)
    tail = filled(prism, 3)
    assert reads.row([7, 8], tail).tokens == [7, 8]
    with pytest.raises(AssertionError, match="attends to 11 tokens: 5 of a tail, at position 5, at most 10 tokens"):
        reads.row([7, 8, 9], tail)


def test_empty_reads_print_nothing() -> None:
    assert str(Reads((), 0, 9)) == "nothing, at position 0, at most 9 tokens"
