"""Numbered things in the order of their last use, and the bytes of all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """What was used longest ago stands first.

    Args:
        size: bytes of one.

    Attributes:
        nbytes: of all.
    """

    def __init__(self, size: Callable[[T], int]) -> None:
        self._size = size
        self._items: OrderedDict[int, T] = OrderedDict()
        self.nbytes = 0

    def put(self, number: int, item: T, *, oldest: bool = False) -> None:
        """Takes it in, in the place of an older one of this number, as used last, or as used longest ago."""
        self.pop(number)
        self._items[number] = item
        self.nbytes += self._size(item)
        if oldest:
            self._items.move_to_end(number, last=False)

    def pop(self, number: int) -> T | None:
        """Takes it out; None if it is not here."""
        item = self._items.pop(number, None)
        if item is not None:
            self.nbytes -= self._size(item)
        return item

    def swap(self, number: int, item: T) -> None:
        """Puts it where the older one of this number stands."""
        self.nbytes += self._size(item) - self._size(self._items[number])
        self._items[number] = item

    def touch(self, number: int) -> None:
        """It was used; nothing happens if it is not here."""
        if number in self._items:
            self._items.move_to_end(number)

    def oldest(self) -> int:
        """The number of what was used longest ago."""
        return next(iter(self._items))

    def size(self, number: int) -> int:
        return self._size(self._items[number])

    def __getitem__(self, number: int) -> T:
        return self._items[number]

    def __contains__(self, number: object) -> bool:
        return number in self._items

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)

    def __reversed__(self) -> Iterator[int]:
        return reversed(self._items)

    def __len__(self) -> int:
        return len(self._items)
