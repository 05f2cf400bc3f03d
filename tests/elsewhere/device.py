"""A device that is not the CPU, where there is only a CPU: its tensors hold tensors of this, and do not mix with them.

What may meet is what may on CUDA: copies, single numbers, and indices of the CPU. Everything else that holds tensors of
both raises. So whatever runs here has no tensor on the wrong side, which is most of what goes wrong on a GPU that the
code never saw; speed, memory and rounding of a real one are another matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from warpcortex_cli.prism import attention

_COPIES = {"aten::copy_", "aten::_to_copy", "aten::to"}
_INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}  # whose indices may be the CPU's

_setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere", 0)


class There(Tensor):
    """A tensor of that device. `held`: what it is on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()


def _run(operator: Any, args: Any, kwargs: Any) -> Any:
    """An operator on what its tensors hold."""
    name = operator._schema.name
    if name == "warpcortex::attend":  # Python that calls other operators
        return attention.attend_numbered(*args)
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
    _check(name, args, tensors)
    devices = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.device)]
    found = operator(*tree_map(_held, args), **tree_map(_held, kwargs))
    comes_back = devices[0].type == "cpu" if devices else not any(isinstance(t, There) for t in tensors)
    if comes_back:
        return found
    known = {id(_held(t)): t for t in tensors}  # what was changed in place is what it was
    return tree_map(lambda x: (known[id(x)] if id(x) in known else There(x)) if isinstance(x, Tensor) else x, found)


def _held(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.held if isinstance(x, There) else x


def _check(name: str, args: Any, tensors: list[Tensor]) -> None:
    there = [t for t in tensors if isinstance(t, There)]
    here = [t for t in tensors if not isinstance(t, There) and t.dim()]
    if not there or not here or name in _COPIES:
        return
    if name in _INDEXED:
        values = [x for x in (args[0], *args[2:3]) if isinstance(x, Tensor) and x.dim()]
        if len({isinstance(x, There) for x in values}) == 1 and isinstance(args[0], There):
            return
    shapes = ", ".join(f"{tuple(t.shape)} {'there' if isinstance(t, There) else 'on the CPU'}" for t in tensors)
    raise RuntimeError(f"{name}: tensors of two devices: {shapes}")


def _on_its_own(operator: Any) -> Callable[..., Any]:
    """What makes a tensor out of numbers: a way of it by itself would change the size of a tensor that is there."""
    return lambda *args, **kwargs: _run(operator, args, {**kwargs, "device": DEVICE})


_kept = [torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")]
_kept[0].fallback(lambda operator, *args, **kwargs: _run(operator, args, kwargs), "PrivateUse1")
for _name in ("default", "start", "start_step"):
    _kept[1].impl(
        "arange" if _name == "default" else f"arange.{_name}",
        _on_its_own(getattr(torch.ops.aten.arange, _name)),
        "PrivateUse1",
    )
_tensor = torch.tensor


def _tensor_there(data: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    made = _tensor(data, dtype=dtype)
    return made if device is None else made.to(device)


torch.tensor = _tensor_there  # torch's own makes no tensors of classes like this one


def move(model: nn.Module) -> None:
    """Takes a model there, as it is: `nn.Module.to` makes Parameters, of which `There` is none."""
    moved: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = moved.setdefault(id(tensor), (tensor, tensor.data.to(DEVICE)))[1]  # type: ignore
