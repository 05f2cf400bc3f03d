"""The operator that layers attend through: it serves the forward that runs, in its own thread alone."""

from __future__ import annotations

from threading import Thread

import pytest
import torch

from warpcortex_cli.prism.attention import Layer, running


class Numbered:
    """A step that notes the layers it serves."""

    def __init__(self) -> None:
        self.served: list[int] = []

    def attend(self, layer: Layer) -> torch.Tensor:
        self.served.append(layer.number)
        return layer.query.transpose(0, 1)


def attend() -> None:
    some = torch.ones(2, 3, 4)
    torch.ops.warpcortex.attend(some, some, some, 1.0, None, None)


def test_layers_are_counted_in_each_forward() -> None:
    outer, inner = Numbered(), Numbered()
    with running(outer):
        attend()
        with running(inner):
            attend()
            attend()
        attend()
    assert (outer.served, inner.served) == ([0, 1], [0, 1])


def test_a_layer_outside_of_a_forward_is_refused_also_beside_one_in_another_thread() -> None:
    with pytest.raises(RuntimeError, match="no step is running"):
        attend()
    mine, theirs = Numbered(), Numbered()
    refused: list[str] = []

    def other() -> None:
        try:
            attend()
        except RuntimeError as error:
            refused.append(str(error))
        with running(theirs):
            attend()

    with running(mine):
        attend()
        thread = Thread(target=other)
        thread.start()
        thread.join()
        attend()
    assert len(refused) == 1 and (mine.served, theirs.served) == ([0, 1], [0])
