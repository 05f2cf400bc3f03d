"""LoRA adapters on one shared model: rows with different adapters in the same forward.

The model's own products are computed once for all rows; then each adapter adds its low-rank part to its own rows, as in
Punica (Chen et al., 2023) and S-LoRA (Sheng et al., 2023). Rows without an adapter do not change. Layers that run as
kernels add it themselves (`low_rank`); modules get forward hooks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism.adapter_files import (
    SAVE_AGAIN,
    WEIGHTS,
    Config,
    Halves,
    find_adapter,
    halves,
    read_config,
)
from warpcortex_cli.prism.fused import FusedLayer
from warpcortex_cli.prism.low_rank import Adapted, LowRank, Pair, Place
from warpcortex_cli.prism.quantize import Embedding

ROOM = 256 * 2**20  # bytes of adapters in memory; the least recently used are dropped first


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits a model.

    Attributes:
        pairs: for modules, by their path in the model; for the embedding, `down` is a table of tokens.
        kernels: for layers that run as kernels; None if it changes none of them.
        head: whether it changes the head, so that all logits of its rows must be computed.
    """

    name: str
    pairs: Mapping[str, Pair]
    kernels: LowRank | None
    head: bool

    @property
    def nbytes(self) -> int:
        of_kernels = self.kernels.nbytes if self.kernels else 0
        return of_kernels + sum(pair.nbytes for pair in self.pairs.values())


class Adapters:
    """The adapters of a model: loads and caches them, and applies them in a step.

    Args:
        model: of transformers, with plain or packed linear layers.
        room: bytes of adapters to keep in memory; a step that needs more may exceed it.
    """

    def __init__(self, model: Any, room: int = ROOM) -> None:
        self._model = model
        self.room = room
        self._held: OrderedDict[str, Adapter] = OrderedDict()  # least recently used first
        self._kept: set[str] = set()  # not to be dropped before the next step
        self._hooked: set[str] = set()
        self._step: list[_Rows] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the adapters in memory."""
        return sum(adapter.nbytes for adapter in self._held.values())

    @property
    def held(self) -> list[str]:
        """Names of the adapters in memory, least recently used first."""
        return list(self._held)

    def get(self, name: str) -> Adapter:
        """An adapter, loaded if it is not in memory.

        Args:
            name: its folder, or org/name in the Hugging Face cache.

        Raises:
            ModelError: it is missing, damaged, not supported, or made for another model. Nothing has changed then.
        """
        found = self._held.get(name)
        if found is None:
            found = read_adapter(find_adapter(name), name, self._model)
            self._held[name] = found
            for module in found.pairs.keys() - self._hooked:
                hooked = self._model.get_submodule(module)
                hooked.register_forward_hook(self._hook(module, hooked is self._model.get_output_embeddings()))
                self._hooked.add(module)
            self._make_room(name)
        self._held.move_to_end(name)
        return found

    def keep(self, name: str) -> None:
        """Loads an adapter and keeps it in memory until the next step is over, so that the step reads no files."""
        self.get(name)
        self._kept.add(name)

    def changes_head(self, name: str | None) -> bool:
        """Whether an adapter changes the head, and with it the largest logit of its rows."""
        return name is not None and self.get(name).head

    @contextmanager
    def running(self, rows: Sequence[tuple[str | None, int]], wanted: Sequence[int] = ()) -> Iterator[Adapted | None]:
        """A context in which a forward of the model computes each row with its adapter.

        Args:
            rows: for each row in packed order, its adapter or None, and its number of tokens.
            wanted: the packed tokens that the head is computed for.

        Yields:
            The argument for layers that run as kernels; None if there is nothing for them.
        """
        spans: dict[str, list[range]] = {}
        start = 0
        for name, tokens in rows:
            if name is not None:
                spans.setdefault(name, []).append(range(start, start + tokens))
            start += tokens
        if not spans:
            yield None
            return
        try:
            for name in spans:
                self.keep(name)
            found = [(self.get(name), [at for span in of for at in span]) for name, of in spans.items()]
            self._make_room()
            self._step = [self._rows(adapter, at, wanted) for adapter, at in found if adapter.pairs]
            given = [(adapter.kernels, at) for adapter, at in found if adapter.kernels is not None]
            yield Adapted(given) if given else None
        finally:
            self._step = []
            self._kept.clear()

    def _rows(self, adapter: Adapter, at: list[int], wanted: Sequence[int]) -> _Rows:
        device, mine = next(self._model.parameters()).device, set(at) if adapter.head else set()
        chosen = [n for n, token in enumerate(wanted) if token in mine]
        return _Rows(adapter, torch.tensor(at, device=device), torch.tensor(chosen, dtype=torch.long, device=device))

    def _make_room(self, newest: str | None = None) -> None:
        for name in [name for name in self._held if name != newest and name not in self._kept]:
            if self.nbytes <= self.room:
                return
            del self._held[name]

    def _hook(self, module: str, head: bool) -> Any:
        def add(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            for rows in self._step:
                pair = rows.adapter.pairs.get(module)
                if pair is not None:
                    x, at = given[0], rows.logits if head else rows.tokens
                    if x.is_floating_point():
                        low = x.flatten(0, -2)[at].float() @ pair.down
                    else:  # token ids, in the embedding
                        low = pair.down[x.flatten()[at]]
                    out.view(-1, out.shape[-1]).index_add_(0, at, (low @ pair.up).to(out.dtype))

        return add


class _Rows(NamedTuple):
    """The indices of an adapter's tokens in a step, and of their logits if it changes the head."""

    adapter: Adapter
    tokens: Tensor
    logits: Tensor


def read_adapter(folder: Path, name: str, model: Any) -> Adapter:
    """Reads an adapter for a model, in fp32, onto the model's device.

    Args:
        folder: as `find_adapter` returns it.
        model: of transformers; the adapter may change linear layers of its decoder, its head and its embedding.

    Raises:
        ModelError: it is damaged, not supported, or was made for another model.
    """
    config = read_config(folder, name)
    found = halves(folder, name)
    ranks = _checked(found, config, name, model)
    pairs: dict[str, Pair] = {}
    places: dict[Place, Pair] = {}
    device = next(model.parameters()).device
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for module, rank in ranks.items():
            down, up = (file.get_tensor(found[module].key(module, part)).float() for part in "AB")
            if not (bool(torch.isfinite(down).all()) and bool(torch.isfinite(up).all())):
                raise ModelError(f"{name} holds numbers that are not finite, in {module}.", "Train or copy it again.")
            up = up.T.contiguous() * config.scale(module, rank)
            pair, (_, place) = Pair(down.T.contiguous().to(device), up.to(device)), _found(model, module)
            if place is None:
                pairs[module] = pair
            else:
                places[place] = pair
    head = any(_found(model, module)[0] is model.get_output_embeddings() for module in pairs)
    kernels = LowRank(places, len(model.get_decoder().layers)) if places else None
    return Adapter(name, pairs, kernels, head)


def merge(model: Any, name: str) -> None:
    """Adds an adapter to the weights of a model of transformers, for programs that know no adapters.

    Raises:
        ModelError: as `read_adapter`, or the adapter is not on this machine.
    """
    for path, pair in read_adapter(find_adapter(name), name, model).pairs.items():
        module = model.get_submodule(path)
        change = pair.down @ pair.up
        change = change if isinstance(module, nn.Embedding) else change.T
        module.weight = nn.Parameter(module.weight + change, requires_grad=False)  # a new one: it may be tied


def _checked(found: Mapping[str, Halves], config: Config, name: str, model: Any) -> dict[str, int]:
    """The rank in each module. Raises ModelError if a tensor does not fit the model."""
    base = f", {config.base_model_name_or_path}" if config.base_model_name_or_path else ""
    ranks = {}
    for module, ((rank, inputs), (outputs, other), table) in found.items():
        sizes = _table_sizes(model, module) if table else _inputs_and_outputs(model, module)
        if sizes is None:
            raise ModelError(f"{name} changes {module}, which is none of the layers that are served here.",
                             f"Use it with the model that it was made for{base}.")  # fmt: skip
        if (inputs, outputs) != sizes or rank != other:
            raise ModelError(
                f"{name} was made for another model: it has {inputs} inputs, {outputs} outputs and ranks of {rank} and "
                f"{other} in {module}, where this model has {sizes[0]} inputs and {sizes[1]} outputs.",
                f"Use it with the model that it was made for{base}.",
            )
        if not 0 < rank <= max(sizes):
            raise ModelError(f"{name} has rank {rank:,} in {module}, which is more than the layer.", SAVE_AGAIN)
        ranks[module] = rank
    return ranks


def _inputs_and_outputs(model: Any, module: str) -> tuple[int, int] | None:
    """Inputs and outputs of the head or of a decoder's linear layer, plain or packed; None for other modules."""
    found, _ = _found(model, module)
    if found is not None and found is model.get_output_embeddings():
        config = model.config.get_text_config(decoder=True)
        return config.hidden_size, config.vocab_size
    inputs, outputs = getattr(found, "in_features", None), getattr(found, "out_features", None)
    within = any(part.isdecimal() for part in module.split("."))
    return (inputs, outputs) if within and isinstance(inputs, int) and isinstance(outputs, int) else None


def _table_sizes(model: Any, module: str) -> tuple[int, int] | None:
    """Vocabulary size and width of the embedding; None for other modules, and if it scales its output."""
    found, _ = _found(model, module)
    plain = type(found) is nn.Embedding or (isinstance(found, Embedding) and found.factor is None)
    if found is None or found is not model.get_input_embeddings() or not plain:
        return None
    return int(found.num_embeddings), int(found.embedding_dim)  # type: ignore[arg-type]


def _found(model: Any, path: str) -> tuple[nn.Module | None, Place | None]:
    """The module at a path of a model; within a layer that runs as kernels, also its place there."""
    found, parts = model, path.split(".")
    for number, part in enumerate(parts):
        if isinstance(found, FusedLayer):
            try:
                module = found.made_of[0].get_submodule(".".join(parts[number:]))
            except AttributeError:
                return None, None
            return module, found.place(module)
        found = getattr(found, part, None)
    return (found if isinstance(found, nn.Module) else None), None
