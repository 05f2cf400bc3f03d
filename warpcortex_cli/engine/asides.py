"""Injected thoughts beside the River: their keys and values, one behind the other, read in one piece.

Each thought is held once: in that piece or, where it was withdrawn and may come back with /undo, by itself. What was
read before stays as it was, whatever comes, goes or moves, for as long as somebody reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from weakref import WeakSet

import torch

from warpcortex_cli.memory.segment import Readable, Segment
from warpcortex_cli.memory.tail import FIRST_CAPACITY, Slab, Tail, TailView
from warpcortex_cli.prism.prism import Prism

_ROOMY = 1024  # tokens that there is room for at first on a CPU, where pages that nobody writes cost nothing


def virtual_positions(position: int, tokens: int) -> list[int]:
    """`tokens` positions ending just before `position`; none is negative, so a very early aside starts at 0."""
    first = max(0, position - tokens)
    return [min(first + i, max(position - 1, i)) for i in range(tokens)]


class Aside:
    """An injected thought.

    Attributes:
        stream: the Stream that it came from.
        anchor: the River token before which it stands, by its number: positions change, this does not.
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
        place: the position of a River token, by its number.
    """

    def __init__(self, prism: Prism, place: Callable[[int], int]) -> None:
        self._prism, self._place = prism, place
        self._first = _ROOMY if prism.device.type == "cpu" else FIRST_CAPACITY
        self._tail = self._room(self._first)
        self._read: tuple[Aside, ...] = ()
        self._living: WeakSet[Aside] = WeakSet()  # those that somebody may go back to, too
        self._inside: WeakSet[Aside] = WeakSet()  # those whose keys and values are in the tail

    def __iter__(self) -> Iterator[Aside]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    def __getitem__(self, index: int) -> Aside:
        return self._read[index]

    @property
    def tokens(self) -> int:
        """Of those that the River reads."""
        return sum(a.tokens for a in self._read)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, also of those that are only held to go back to."""
        return sum(a.tokens for a in self._living) * self._prism.layout.bytes_per_token

    def view(self) -> tuple[TailView, ...]:
        """All that the River reads, in order and in one piece; nothing where there is none."""
        first = self._read[0].kv if self._read else None
        return (TailView(self._tail, self.tokens, first.start),) if isinstance(first, TailView) else ()

    @torch.inference_mode()
    def keep(self, asides: Iterable[Aside]) -> None:
        """Makes these, in this order, what the River reads, and puts them where its tokens now have them stand.

        New ones are put behind those that are there. The first ones just leave; where they have left half of the room,
        or another one has left, the others are copied into another room.

        Raises:
            RuntimeError: there is no memory; nothing has changed then.
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
        if tail is not self._tail:  # whoever is not read any more would keep all of the old room
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
        """Its keys and values at the positions that it is to have now."""
        kv = aside.kv
        positions = virtual_positions(max(0, self._place(aside.anchor)), kv.tokens)
        if kv.positions.tolist() == positions:
            return kv
        whole = kv.freeze() if isinstance(kv, TailView) else kv
        assert isinstance(whole, Segment)
        return whole.moved(self._prism.rope, torch.tensor(positions, device=self._prism.device))

    def _room(self, tokens: int) -> Tail:
        return Tail(Slab(self._prism.layout, 1, tokens), growing=True)
