"""Where the weights of a model come from, parameter by parameter, so that none need be held before it is used.

A model whose weights come from a `WeightSource` is made with parameters on the meta device; whoever needs those of a
part of it asks for them: the loader for all of them, `quantize` for one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from warpcortex_cli.prism.grouped import Grouped


class WeightSource(Protocol):
    """Named tensors, under the names that the parameters have in the model."""

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A parameter on the CPU, in its own shape; ModelError if it cannot be read."""

    def stored(self, name: str) -> torch.dtype:
        """The smallest type that holds what is stored of a parameter as it is."""

    def grouped(self, name: str) -> Grouped | None:
        """A matrix as it is stored, in levels; None where it is stored as plain numbers, or in no such form."""

    def blocks(self, name: str) -> tuple[str, Tensor] | None:
        """A matrix as it lies in a GGUF file: the type, and its rows uint8 [outputs, bytes]; None if it does not."""


_sources: WeakKeyDictionary[nn.Module, WeightSource] = WeakKeyDictionary()


def attach(model: nn.Module, source: WeightSource) -> None:
    """From now on the parameters of `model` that are on meta are those of `source`."""
    _sources[model] = source


def source_of(model: nn.Module) -> WeightSource | None:
    """Where parameters on meta come from."""
    return _sources.get(model)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules that are made inside have their parameters on the meta device, and their buffers for real."""
    register = nn.Module.register_parameter

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = registered  # type: ignore[method-assign, assignment]
    try:
        with no_init_weights():  # nobody reads them, and on meta it costs a tenth of a second
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class Filling:
    """Puts parameters of a model in their places.

    Args:
        model: with parameters on meta; those that are real stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._source = source_of(model)
        self._names: dict[nn.Parameter, str] = {}
        self._holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}  # several of tied ones
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.device.type == "meta":
                    self._names.setdefault(parameter, f"{path}.{name}" if path else name)
                    self._holders.setdefault(parameter, []).append((module, name))

    def grouped(self, module: nn.Module) -> Grouped | None:
        """The weight of `module` as it is stored, in levels; None where it is not."""
        name = self._name(module)
        return None if name is None or self._source is None else self._source.grouped(name)

    def blocks(self, module: nn.Module) -> tuple[str, Tensor] | None:
        """The weight of `module` as it lies in a GGUF file; None where it does not."""
        name = self._name(module)
        return None if name is None or self._source is None else self._source.blocks(name)

    def _name(self, module: nn.Module) -> str | None:
        return self._names.get(module.get_parameter("weight"))

    def fill(
        self,
        module: nn.Module,
        dtype: torch.dtype | None,
        device: torch.device | None = None,
        but: tuple[str, ...] = (),
    ) -> None:
        """Reads the parameters that `module` holds itself, not those of its children, and none that is called `but`.

        `dtype`: of what is read; None: the one that it is stored in.
        """
        if self._source is None:
            return
        for own, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta" and own not in but:
                path = self._names[parameter]
                value = self._source.read(path, dtype or self._source.stored(path))
                value = nn.Parameter(value.to(device or "cpu"), requires_grad=False)
                for holder, name in self._holders.pop(parameter):  # which must not outlive its place in the model
                    setattr(holder, name, value)


def fill_all(
    model: nn.Module, dtype: torch.dtype, device: torch.device | None = None, without: tuple[type, ...] = ()
) -> None:
    """Reads all parameters that are on meta, but those of modules of the kinds `without`."""
    filling = Filling(model)
    for module in list(model.modules()):
        if not isinstance(module, without):
            filling.fill(module, dtype, device)
