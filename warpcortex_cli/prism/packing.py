"""Packs blocks of GGUF files for the kernels: all matrices of a model in one call, each read and written once."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

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
_SLAB, _SOME, _LINE = 1 << 25, 1 << 20, 64  # bytes
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE
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


class Room:
    """Memory for packed weights, whose pages another thread maps while this one makes the model.

    Otherwise page faults would take longer than packing. Huge pages cause fewer, but on a virtual machine each may wait
    for its host: mapping 93 MB took 9 to 121 ms with them on one, and 30 to 33 ms in small pages.

    Args:
        nbytes: about how many bytes will be taken; more are allocated as needed.
    """

    def __init__(self, nbytes: int = 0) -> None:
        self._rest = _mapped(nbytes) if nbytes else torch.empty(0, dtype=torch.uint8)
        if nbytes and sys.platform == "linux":
            Thread(target=_populate, args=(self._rest,), daemon=True).start()

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], from the beginning of a line on."""
        whole = _whole_lines(nbytes)
        if whole > len(self._rest):
            self._rest = _mapped(max(whole, _SLAB))
        found, self._rest = self._rest[:nbytes], self._rest[whole:]
        return found


def room_for(matrices: Iterable[tuple[str, int, int]]) -> Room:
    """Memory for matrices: types in `BLOCKS`, outputs and inputs.

    Raises:
        RunError: the kernels cannot be compiled here.
    """
    sizes = [packed_bytes(BLOCKS[kind][2], outputs, inputs) for kind, outputs, inputs in matrices]
    return Room(sum(map(_whole_lines, sizes)))


class Packing:
    """Allocates matrices as they are added, and packs them all together at the end.

    Args:
        room: where they go; by default into memory that is allocated for them.

    Raises:
        RunError: the kernels cannot be compiled here.
    """

    def __init__(self, room: Room | None = None) -> None:
        self._kernels = kernels()
        self._jobs: list[_Job] = []
        self._room = room or Room()

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
        packed = self._room.take(packed_bytes(format, sum(part.count for part in parts), inputs))
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


def _whole_lines(nbytes: int) -> int:
    return -(-nbytes // _LINE) * _LINE


def _mapped(nbytes: int) -> Tensor:
    return torch.frombuffer(mmap.mmap(-1, nbytes, **_PRIVATE), dtype=torch.uint8)


def _populate(memory: Tensor) -> None:
    """Maps all pages, which leaves their contents as they are. Linux before 5.14 cannot, and maps them when used."""
    madvise = ctypes.CDLL(None).madvise  # unlike Python's own, it releases the GIL
    for start in range(0, len(memory), _SOME):  # some at a time, since nobody else can map memory meanwhile
        size = min(_SOME, len(memory) - start)
        madvise(ctypes.c_void_p(memory.data_ptr() + start), ctypes.c_size_t(size), _POPULATE_WRITE)


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
