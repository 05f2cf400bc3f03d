"""Sources of weights: a model's parameters are read one by one, when they are needed.

A model whose weights come from a `WeightSource` is made with its parameters on the meta device. They are read later:
all at once by the loader, or one layer at a time by `quantize`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from warpcortex_cli.gguf.grouped import Grouped
from warpcortex_cli.gguf.layout import FileRows
from warpcortex_cli.prism.packing import Room


class WeightSource(Protocol):
    """Tensors by the names of the model's parameters.

    Attributes:
        room: memory for its blocks once they are packed, if it was allocated before.
    """

    room: Room | None

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A parameter on the CPU, in its own shape; ModelError if it cannot be read."""

    def stored(self, name: str) -> torch.dtype:
        """The smallest type that holds a stored parameter exactly."""

    def grouped(self, name: str) -> Grouped | None:
        """A matrix in its stored levels; None if it is stored as plain numbers or in another form."""

    def blocks(self, name: str) -> tuple[str, list[FileRows]] | None:
        """A matrix as a GGUF file stores it: its type, and where its rows lie; None for other files."""


_sources: WeakKeyDictionary[nn.Module, WeightSource] = WeakKeyDictionary()


def attach(model: nn.Module, source: WeightSource) -> None:
    """Makes `source` the source of those parameters of `model` that are on meta."""
    _sources[model] = source


def source_of(model: nn.Module) -> WeightSource | None:
    """The source of the parameters on meta, or None."""
    return _sources.get(model)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made in this context have their parameters on the meta device, but real buffers."""
    register = nn.Module.register_parameter

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = registered  # type: ignore[method-assign, assignment]
    try:
        with no_init_weights():  # the values are not used, and on meta it would cost a tenth of a second
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class Filling:
    """Fills a model's parameters from its source.

    Args:
        model: with parameters on meta. Real ones stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._source = source_of(model)
        self._names: dict[nn.Parameter, str] = {}
        self._holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}  # several for a tied parameter
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.device.type == "meta":
                    self._names.setdefault(parameter, f"{path}.{name}" if path else name)
                    self._holders.setdefault(parameter, []).append((module, name))

    def grouped(self, module: nn.Module) -> Grouped | None:
        """The weight of `module` as `WeightSource.grouped` gives it."""
        name = self._name(module)
        return None if name is None or self._source is None else self._source.grouped(name)

    def blocks(self, module: nn.Module) -> tuple[str, list[FileRows]] | None:
        """The weight of `module` as `WeightSource.blocks` gives it."""
        name = self._name(module)
        return None if name is None or self._source is None else self._source.blocks(name)

    def stored(self, module: nn.Module) -> torch.dtype | None:
        """The type of the weight of `module` as `WeightSource.stored` gives it."""
        name = self._name(module)
        return None if name is None or self._source is None else self._source.stored(name)

    def read(self, module: nn.Module) -> Tensor | None:
        """The weight of `module` in fp32; ModelError if it cannot be read."""
        name = self._name(module)
        return None if name is None or self._source is None else self._source.read(name, torch.float32)

    @property
    def room(self) -> Room | None:
        """As a `WeightSource`."""
        return None if self._source is None else self._source.room

    def _name(self, module: nn.Module) -> str | None:
        return self._names.get(module.get_parameter("weight"))

    def fill(
        self,
        module: nn.Module,
        dtype: torch.dtype | None,
        device: torch.device | None = None,
        but: tuple[str, ...] = (),
    ) -> None:
        """Reads the parameters that `module` itself holds, not its children's, except those named in `but`.

        `dtype`: the type to read as; None: the type it is stored in.
        """
        if self._source is None:
            return
        for own, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta" and own not in but:
                path = self._names[parameter]
                value = self._source.read(path, dtype or self._source.stored(path))
                value = nn.Parameter(value.to(device or "cpu"), requires_grad=False)
                for holder, name in self._holders.pop(parameter):  # it must not outlive its place in the model
                    setattr(holder, name, value)


def fill_all(
    model: nn.Module, dtype: torch.dtype, device: torch.device | None = None, without: tuple[type, ...] = ()
) -> None:
    """Reads all parameters on meta, except those of modules of the types `without`."""
    filling = Filling(model)
    for module in list(model.modules()):
        if not isinstance(module, without):
            filling.fill(module, dtype, device)
