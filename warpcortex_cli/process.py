"""Settings of the process that have to be made before torch is loaded; what the user has set stays."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_PRIMITIVES = "24"  # compiled kernels that oneDNN keeps; by default 1,024 of them, one for each shape it ever saw
_LARGE = 3 << 18  # bytes; larger buffers, such as what many rows compute, go back to the system when they are freed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_SPINS = "2000000"  # seven times GNU's own: tens of milliseconds, where LLVM's OpenMP waits for 200


def prepare() -> None:
    """Makes all of them."""
    _hold_streams()
    _stay_awake()
    _give_back()


@contextmanager
def importing() -> Iterator[None]:
    """Garbage is not looked for while modules are imported: they make a third of a million objects, all of which stay.

    Nor is it looked for among them later, where each time would take a tenth of a second.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _hold_streams() -> None:
    """A standard stream that the caller has closed is /dev/null: else the next file opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number


def _stay_awake() -> None:
    """Lets threads wait for their next work awake, for as long as a step spends in Python.

    GNU's OpenMP sends them to sleep sooner. A core that slept is slow for some steps: the River paid for that after
    each wide step. And where another process wants the core, who slept is served after it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def _give_back() -> None:
    """Lets the process give back what a step took.

    By default glibc learns from freed buffers to keep them, and oneDNN keeps a kernel for each number of rows that a
    step ever had: both would look like memory of agents.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, _PRIMITIVES)
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE)
