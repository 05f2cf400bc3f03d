"""Injected thoughts beside the River: their keys and values lie one behind the other and are read as one segment.

Each thought is held once: in that segment or, if it was withdrawn and may come back with /undo, by itself. A view that
somebody reads stays as it is, whatever is added, removed or moved later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from weakref import WeakSet

import torch

from warpcortex_cli.memory.segment import Readable, Segment
from warpcortex_cli.memory.tail import FIRST_CAPACITY, Slab, Tail, TailView
from warpcortex_cli.prism.prism import Prism

_ROOMY = 1024  # first capacity in tokens on a CPU, where pages that nobody writes cost nothing


def virtual_positions(position: int, tokens: int) -> list[int]:
    """`tokens` positions ending just before `position`; none is negative, so a very early aside starts at 0."""
    first = max(0, position - tokens)
    return [min(first + i, max(position - 1, i)) for i in range(tokens)]


class Aside:
    """An injected thought.

    Attributes:
        stream: the Stream that it came from.
        anchor: the number of the River token before which it stands. Positions change, this does not.
        kv: its keys and values, wherever they are kept.
    """

    def __init__(self, stream: int, text: str, anchor: int, kv: Readable) -> None:
        self.stream = stream
        self.text = text
        self.anchor = anchor
        self.kv = kv

    @property
    def tokens(self) -> int:
        return self.kv.tokens


class Asides:
    """The thoughts that the River reads, in order.

    Args:
        prism: the model; its rotary embedding moves them.
        place: gives the position of a River token, by its number.
    """

    def __init__(self, prism: Prism, place: Callable[[int], int]) -> None:
        self._prism, self._place = prism, place
        self._first = _ROOMY if prism.device.type == "cpu" else FIRST_CAPACITY
        self._tail = self._room(self._first)
        self._read: tuple[Aside, ...] = ()
        self._living: WeakSet[Aside] = WeakSet()  # also those that /undo may bring back
        self._inside: WeakSet[Aside] = WeakSet()  # those whose keys and values are in the tail

    def __iter__(self) -> Iterator[Aside]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    def __getitem__(self, index: int) -> Aside:
        return self._read[index]

    @property
    def tokens(self) -> int:
        """Tokens of the thoughts that the River reads."""
        return sum(a.tokens for a in self._read)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, including thoughts that are only held for /undo."""
        return sum(a.tokens for a in self._living) * self._prism.layout.bytes_per_token

    def view(self) -> tuple[TailView, ...]:
        """All that the River reads, in order, as one view; empty if there are no thoughts."""
        first = self._read[0].kv if self._read else None
        return (TailView(self._tail, self.tokens, first.start),) if isinstance(first, TailView) else ()

    @torch.inference_mode()
    def keep(self, asides: Iterable[Aside]) -> None:
        """Makes these thoughts, in this order, what the River reads, each at the position that its anchor now gives.

        New thoughts are appended. The first ones can be dropped in place; when they have left half of the room empty,
        or one in the middle is dropped, the rest is copied into new room.

        Raises:
            RuntimeError: there is not enough memory. Nothing has changed then.
        """
        wanted = tuple(asides)
        found: dict[Aside, Readable] = {a: self._standing(a) for a in wanted}
        tail, stay, end = self._tail, 0, self._tail.length
        for aside in wanted:
            kv = found[aside]
            if not isinstance(kv, TailView) or kv.tail is not tail or (stay and kv.start != end):
                break
            stay, end = stay + 1, kv.start + kv.tokens
        new = wanted[stay:]
        if new:
            first = found[wanted[0]]
            left = first.start if stay and isinstance(first, TailView) else tail.length
            full = tail.length + sum(a.tokens for a in new) > tail.capacity
            if end != tail.length or (full and left >= tail.capacity // 2):
                tail, new = self._room(max(self._first, sum(a.tokens for a in wanted))), wanted
        for aside in new:
            kv, start = found[aside], tail.length
            keys, values = zip(*(kv.layer(i) for i in range(self._prism.layers)), strict=True)
            tail.append(keys, values, kv.positions)
            found[aside] = TailView(tail, kv.tokens, start)
        inside = self._inside
        if tail is not self._tail:  # a thought that is not read any more would hold all of the old room
            inside = WeakSet()
            for aside in self._inside - found.keys():
                if isinstance(aside.kv, TailView):
                    found[aside] = aside.kv.freeze()
        for aside, kv in found.items():
            aside.kv = kv
        self._tail, self._read, self._inside = tail, wanted, inside
        self._inside.update(wanted)
        self._living.update(wanted)

    def _standing(self, aside: Aside) -> Readable:
        """Its keys and values, moved to its current positions."""
        kv = aside.kv
        positions = virtual_positions(max(0, self._place(aside.anchor)), kv.tokens)
        if kv.positions.tolist() == positions:
            return kv
        whole = kv.freeze() if isinstance(kv, TailView) else kv
        assert isinstance(whole, Segment)
        return whole.moved(self._prism.rope, torch.tensor(positions, device=self._prism.device))

    def _room(self, tokens: int) -> Tail:
        return Tail(Slab(self._prism.layout, 1, tokens), growing=True)
