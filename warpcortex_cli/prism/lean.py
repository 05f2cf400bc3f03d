"""Imports transformers without work that only other programs need.

Its models import torch's compiler and torch.distributed, and with them sympy and a thousand other modules. Neither is
used here unless layers are compiled. torch can be built without `torch.distributed`, and transformers checks for it, as
it checks for other packages. The compiler is only named in decorators that mark functions, so a stand-in is enough
until somebody uses the real one. transformers also writes the documentation of a model when it is imported, and reads
its 1,700 model files twice, to see which names they export; that is cached by version. Of the 2.0 s that `from
transformers import LlamaForCausalLM` takes after `import torch`, on 2 cores of an AMD EPYC (Zen 4), the compiler and
torch.distributed are 1.0 and the reading is 0.5.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from warpcortex_cli.phases import phase
from warpcortex_cli.prism.kept import keep, kept
from warpcortex_cli.process import importing

_COMPILER = "torch._dynamo"
_TRACED = f"{_COMPILER}._trace_wrapped_higher_order_op"  # imported by transformers' masks directly
_UNUSED = ("accelerate", "deepspeed", "peft", "torchao", "torchvision")  # packages that it would import if installed
_SCAN = "create_import_structure_from_path"


class Lean:
    """How it went. `missed`: a stand-in was asked for something it lacks, so the import must be done without them."""

    missed = False


@contextmanager
def lean() -> Iterator[Lean]:
    """A context in which modules of transformers are imported without all that. Nothing may be compiled in it.

    If the compiler was imported before, as in another program, it stays.
    """
    with importing(), phase("importing torch"):
        import torch

    found = Lean()
    if _COMPILER in sys.modules:
        yield found
        return
    standing = {name: _StandIn(name, found) for name in (_COMPILER, _TRACED)}
    distributed: Any = torch.distributed
    available, finder = distributed.is_available, _Finder()
    sys.modules.update(standing)
    sys.meta_path.insert(0, finder)
    torch._dynamo = standing[_COMPILER]  # type: ignore[assignment]  # else torch would import the real one here
    distributed.is_available = lambda: False
    try:
        yield found
    finally:
        distributed.is_available = available
        sys.meta_path.remove(finder)
        for name, module in standing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        if torch.__dict__.get("_dynamo") is standing[_COMPILER]:
            del torch._dynamo  # torch imports it on the next use


class _StandIn(ModuleType):
    """Has every attribute, as a function."""

    def __init__(self, name: str, found: Lean) -> None:
        super().__init__(name)
        self.__dict__["found"] = found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            if name == "__path__":  # a submodule is imported
                self.found.missed = True
            raise AttributeError(name)
        return _later(self, name)


def _later(module: ModuleType, name: str) -> Callable[..., Any]:
    """The function of that name in the real module; until that is imported, a decorator that does nothing."""

    def called(*args: Any, **kwargs: Any) -> Any:
        if sys.modules.get(module.__name__) is not module:
            return getattr(importlib.import_module(module.__name__), name)(*args, **kwargs)
        return args[0] if args and callable(args[0]) else lambda function: function

    return called


# -- what transformers asks for when it is imported --------------------------------------------------------------


class _Finder:
    """Replaces functions of transformers before they are called: what exists, what files export, and documentation."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        change = _CHANGES.get(name)
        if change is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = spec and spec.loader
        if loader is None:
            return spec
        run = loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            change(module)

        loader.exec_module = exec_module
        return spec


def _what_exists(module: Any) -> None:
    for package in _UNUSED:
        if hasattr(module, asked := f"is_{package}_available"):
            setattr(module, asked, lambda *_, **__: False)
    if callable(read := getattr(module, _SCAN, None)):
        setattr(module, _SCAN, _read_once(read))


def _documentation(module: Any) -> None:
    """Docstrings of models are made when they are imported: half of the time that this takes."""
    if hasattr(module, "auto_docstring"):
        module.auto_docstring = lambda documented=None, **_: documented or (lambda later: later)


_CHANGES = {"transformers.utils.import_utils": _what_exists, "transformers.utils.auto_docstring": _documentation}


def _read_once(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @cache
    def found(path: str) -> Any:
        models = Path(path)
        if models.name != "models" or (key := _key(models)) is None:
            return read(path)
        try:
            return _from_json(kept("transformers", key))
        except (TypeError, ValueError, AttributeError, KeyError):
            structure = read(path)
            keep("transformers", key, _to_json(structure))
            return structure

    def called(path: Any) -> Any:
        # For models/__init__.py its folder is read, too.
        return found(str(Path(path).parent if Path(path).name == "__init__.py" else path))

    return called


def _key(models: Path) -> dict[str, object] | None:
    """The version of these files; None if they may change without it, as a developer's do."""
    try:
        release = version("transformers")
        return None if "dev" in release else {"version": release, "path": str(models), "at": models.stat().st_mtime_ns}
    except (PackageNotFoundError, OSError):
        return None


def _to_json(structure: dict[Any, Any]) -> list[Any]:
    """Folders by name, and what each folder's files need, as sets of words."""
    folders = {name: _to_json(of) for name, of in structure.items() if isinstance(name, str)}
    needs = [
        [sorted(words), {module: sorted(names) for module, names in of.items()}]
        for words, of in structure.items()
        if not isinstance(words, str)
    ]
    return [folders, needs]


def _from_json(held: Any) -> dict[Any, Any]:
    """The inverse of `_to_json`. Raises TypeError or the like if it does not fit."""
    folders, needs = held
    found: dict[Any, Any] = {name: _from_json(of) for name, of in folders.items()}
    for words, of in needs:
        found[frozenset(words)] = {module: set(names) for module, names in of.items()}
    return found
