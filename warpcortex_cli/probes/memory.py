"""Memory of this process, measured by NVML on an NVIDIA GPU, elsewhere as resident set size."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Memory:
    """One measurement. `source`: "NVML", "CUDA allocator" or "RSS"; `bytes` used by this process alone."""

    source: str
    bytes: int


class MemoryProbe:
    """Measures this process; cheap enough to be read a few times a second.

    Args:
        device: the model's, such as `cpu`, `cuda:0`, `mps`. Without CUDA the host's memory is measured.
    """

    def __init__(self, device: str) -> None:
        self._on_cuda = device.startswith("cuda")
        self._process = psutil.Process()
        self._forgot = False

    def read(self) -> Memory:
        """The current use. In a container NVML may not know this process's id; then PyTorch's allocator is asked."""
        if self._on_cuda:
            used = nvml_bytes(os.getpid())
            return Memory("NVML", used) if used is not None else Memory("CUDA allocator", _allocated())
        return Memory("RSS", int(self._process.memory_info().rss))

    def forget(self) -> None:
        """Resets `peak`."""
        self._forgot = False
        with contextlib.suppress(OSError):  # only Linux has it
            Path("/proc/self/clear_refs").write_text("5")
            self._forgot = not self._on_cuda

    def peak(self) -> Memory:
        """The peak use since `forget`, also within a step; the current use where the system does not record peaks.

        On CUDA the current use is the peak, since PyTorch keeps what it has reserved.
        """
        return Memory("RSS", peak_of(os.getpid())) if self._forgot else self.read()


def peak_of(process: int) -> int:
    """Peak bytes of a running process since its start; the current bytes where the system does not record peaks."""
    with contextlib.suppress(OSError, StopIteration):  # only Linux has it
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    memory = psutil.Process(process).memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def settle() -> None:
    """Returns unused memory of the allocator to the system, so that two readings can be compared."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


@cache
def keep() -> None:
    """Freezes what was loaded, so that Python's garbage collector skips it.

    It lives as long as the process, and traversing it takes a tenth of a second in the middle of some step. Only the
    first call freezes: what is loaded later may be freed again.
    """
    gc.collect()
    gc.freeze()


def available_memory() -> int:
    """Bytes that this process can still allocate on the host: free memory, or what a container's limit leaves."""
    free = int(psutil.virtual_memory().available)
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        return free if limit == "max" else min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        return free


def total_memory() -> int:
    """The host's memory in bytes."""
    return int(psutil.virtual_memory().total)


def nvml_bytes(pid: int) -> int | None:
    """GPU memory of a process in bytes over all NVIDIA devices, or None if NVML cannot tell."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        found = None
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid == pid and process.usedGpuMemory is not None:
                    found = (found or 0) + int(process.usedGpuMemory)
        return found
    except pynvml.NVMLError:
        return None
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _allocated() -> int:
    import torch

    return sum(int(torch.cuda.memory_reserved(i)) for i in range(torch.cuda.device_count()))
