"""Packs blocks of GGUF files for the kernels: all matrices of a model in one call, each read and written once."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.layout import FileRows
from warpcortex_cli.prism.native import BF16, F16, INT4, INT5, INT6, INT8, kernels, packed_bytes

# Types that are packed directly, in the order of `Blocks` in kernels/: bytes and values of a block, and the format.
# Plain numbers are taken for blocks of a group.
BLOCKS = {
    "Q4_0": (18, 32, 4),
    "Q4_1": (20, 32, INT4),
    "Q5_0": (22, 32, INT5),
    "Q5_1": (24, 32, INT5),
    "Q8_0": (34, 32, INT8),
    "Q4_K": (144, 256, INT4),
    "Q5_K": (176, 256, INT5),
    "Q6_K": (210, 256, INT6),
    "F16": (64, 32, F16),
    "BF16": (64, 32, BF16),
}
_PACKED, _ENDED = 0, 1  # `Packing` of kernels/
_SLAB, _LINE = 1 << 25, 64  # bytes
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class _FileRows(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("file", "offset", "count", "heads"))


class _Blocky(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("parts", ctypes.POINTER(_FileRows)),
        ("count", ctypes.c_int64),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("outputs", "inputs", "outcome")),
    )


@dataclass(frozen=True)
class _Job:
    kind: str
    parts: Sequence[FileRows]
    inputs: int
    packed: Tensor
    refuse: Callable[[], object]


class Packing:
    """Allocates matrices as they are added, and packs them all together at the end.

    Raises:
        RunError: the kernels cannot be compiled here.
    """

    def __init__(self) -> None:
        self._kernels = kernels()
        self._jobs: list[_Job] = []
        self._slab = torch.empty(0, dtype=torch.uint8)

    def add(
        self, kind: str, parts: Sequence[FileRows], inputs: int, refuse: Callable[[], object]
    ) -> tuple[Tensor, int]:
        """Memory for rows of ggml's blocks, several matrices as one, and its format. `finish` fills it.

        Args:
            kind: one of `BLOCKS`.
            refuse: finds the number that is not finite and raises ModelError for it.

        Raises:
            ValueError: rows of so many inputs are not whole blocks, or heads do not divide them.
        """
        _, values, format = BLOCKS[kind]
        if inputs % values or any(p.heads and p.count % (2 * p.heads) for p in parts):
            raise ValueError(f"{inputs} inputs of {parts} are no blocks of {kind}")
        packed = self._room(packed_bytes(format, sum(part.count for part in parts), inputs))
        self._jobs.append(_Job(kind, parts, inputs, packed, refuse))
        return packed, format

    def finish(self) -> None:
        """Packs all. Raises ModelError if a file cannot be read, ends too early, or holds infinite or NaN numbers."""
        with ExitStack() as opened:
            files: dict[Path, int] = {}
            for path in {part.path for job in self._jobs for part in job.parts}:
                try:
                    files[path] = opened.enter_context(path.open("rb")).fileno()
                except OSError as error:
                    raise _unreadable(path, error.strerror or str(error)) from error
            parts = [_parts(job, files) for job in self._jobs]  # kept alive: `given` points at them
            given = (_Blocky * len(parts))(*map(_given, self._jobs, parts))
            self._kernels.pack_blocks(ctypes.addressof(given), len(given), torch.get_num_threads())
        for job, of in zip(self._jobs, given, strict=True):
            if of.outcome == _ENDED:
                raise _unreadable(job.parts[0].path, "it ends too early")
            if of.outcome != _PACKED:
                job.refuse()
                raise ModelError(f"{job.parts[0].path.name} holds weights that are no finite numbers.", _AGAIN)
        self._jobs.clear()

    def _room(self, nbytes: int) -> Tensor:
        """Memory in huge pages if possible: page faults of small pages take as long as filling them."""
        whole = -(-nbytes // _LINE) * _LINE
        if whole > len(self._slab):
            memory = mmap.mmap(-1, max(whole, _SLAB), **_PRIVATE)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
            self._slab = torch.frombuffer(memory, dtype=torch.uint8)
        found, self._slab = self._slab[:nbytes], self._slab[whole:]
        return found


_AGAIN = "Copy or pull the file again."


def _unreadable(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path.name} cannot be read: {reason}.", _AGAIN)


def _parts(job: _Job, files: dict[Path, int]) -> ctypes.Array[_FileRows]:
    return (_FileRows * len(job.parts))(*(_FileRows(files[p.path], p.offset, p.count, p.heads) for p in job.parts))


def _given(job: _Job, parts: ctypes.Array[_FileRows]) -> _Blocky:
    return _Blocky(
        kind=list(BLOCKS).index(job.kind), parts=parts, count=len(parts), out=job.packed.data_ptr(),
        outputs=sum(part.count for part in parts), inputs=job.inputs, outcome=_PACKED,
    )  # fmt: skip
