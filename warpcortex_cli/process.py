"""Process settings that must be made before torch is loaded. The user's own settings are kept."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_PRIMITIVES = "24"  # compiled kernels that oneDNN keeps; its default is 1,024, one for each shape it has seen
_LARGE = 3 << 18  # bytes; larger buffers, such as those of wide steps, are returned to the system when freed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_SPINS = "2000000"  # seven times GNU's default: tens of milliseconds. LLVM's OpenMP spins for 200


def prepare() -> None:
    """Applies all settings."""
    _hold_streams()
    _stay_awake()
    _give_back()


@contextmanager
def importing() -> Iterator[None]:
    """Turns garbage collection off while modules are imported, which creates a third of a million lasting objects.

    Later collections skip these objects too; each would take a tenth of a second longer.
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
    """Opens /dev/null for standard streams that the caller closed; the next opened file would take their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number


def _stay_awake() -> None:
    """Lets OpenMP workers spin between steps, for as long as a step spends in Python.

    GNU's OpenMP puts them to sleep sooner. Waking them slows the next steps, which the River felt after each wide step;
    and if another process wants the core, a sleeping worker is scheduled after it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def _give_back() -> None:
    """Returns a step's memory to the system.

    By default glibc raises its thresholds and keeps freed buffers, and oneDNN keeps a kernel for each number of rows it
    has seen. Both would look like memory of agents.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, _PRIMITIVES)
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE)
