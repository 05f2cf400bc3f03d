"""A least-recently-used map from numbers to items that counts their bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """Items by number; the least recently used comes first.

    Args:
        size: gives the bytes of an item.

    Attributes:
        nbytes: bytes of all items.
    """

    def __init__(self, size: Callable[[T], int]) -> None:
        self._size = size
        self._items: OrderedDict[int, T] = OrderedDict()
        self.nbytes = 0

    def put(self, number: int, item: T, *, oldest: bool = False) -> None:
        """Adds or replaces an item, as the most recently used one, or as the least."""
        self.pop(number)
        self._items[number] = item
        self.nbytes += self._size(item)
        if oldest:
            self._items.move_to_end(number, last=False)

    def pop(self, number: int) -> T | None:
        """Removes and returns an item; None if it is not here."""
        item = self._items.pop(number, None)
        if item is not None:
            self.nbytes -= self._size(item)
        return item

    def swap(self, number: int, item: T) -> None:
        """Replaces an item and keeps its place in the order."""
        self.nbytes += self._size(item) - self._size(self._items[number])
        self._items[number] = item

    def touch(self, number: int) -> None:
        """Marks an item as used; does nothing if it is not here."""
        if number in self._items:
            self._items.move_to_end(number)

    def oldest(self) -> int:
        """The number of the least recently used item."""
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
