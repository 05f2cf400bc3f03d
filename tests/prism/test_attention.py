"""The operator that layers attend through: it serves the forward that runs, in its own thread alone."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from torch import nn

from warpcortex_cli.prism.attention import Layer, attention, number_layers, running


class Numbered:
    """A step that notes the layers it serves."""

    def __init__(self) -> None:
        self.served: list[int] = []

    def attend(self, layer: Layer) -> torch.Tensor:
        self.served.append(layer.number)
        return layer.query.transpose(0, 1)


def attend(number: int = 0) -> None:
    some = torch.ones(2, 3, 4)
    torch.ops.warpcortex.attend(torch.tensor(number), some, some, some, 1.0, None, None)


def test_each_forward_serves_its_own_layers() -> None:
    outer, inner = Numbered(), Numbered()
    with running(outer):
        attend(0)
        with running(inner):
            attend(0)
            attend(1)
        attend(1)
    assert (outer.served, inner.served) == ([0, 1], [0, 1])


def test_a_layer_says_which_one_it_is() -> None:
    """In whatever order layers run, and though one runs twice."""
    step = Numbered()
    with running(step):
        for number in (3, 1, 1):
            attend(number)
    assert step.served == [3, 1, 1]


def test_layers_take_their_numbers_from_the_model_and_without_one_it_is_refused() -> None:
    decoder = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.ReLU())
    decoder[0].layer_idx, decoder[1].layer_idx = 1, 0
    number_layers(decoder)
    step, some = Numbered(), torch.ones(1, 2, 3, 4)
    with running(step):
        for module in (decoder[0], decoder[1]):
            attention(module, some, some, some, None)
        with pytest.raises(NotImplementedError, match="do not say which layer they are"):
            attention(decoder[2], some, some, some, None)
    assert step.served == [1, 0]


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
        attend(0)
        thread = Thread(target=other)
        thread.start()
        thread.join()
        attend(1)
    assert len(refused) == 1 and (mine.served, theirs.served) == ([0, 1], [0])
