"""Memory of this process, and who measured it: NVML on an NVIDIA GPU, the resident set size elsewhere."""

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
    """Measures this process; cheap enough for a few times a second.

    Args:
        device: where the model is, as in `cpu`, `cuda:0`, `mps`. Without CUDA the host's memory is measured.
    """

    def __init__(self, device: str) -> None:
        self._on_cuda = device.startswith("cuda")
        self._process = psutil.Process()
        self._forgot = False

    def read(self) -> Memory:
        """Now. In a container NVML may not know this process's number; then PyTorch's allocator answers."""
        if self._on_cuda:
            used = nvml_bytes(os.getpid())
            return Memory("NVML", used) if used is not None else Memory("CUDA allocator", _allocated())
        return Memory("RSS", int(self._process.memory_info().rss))

    def forget(self) -> None:
        """From now on `peak` says the most that was used after this."""
        self._forgot = False
        with contextlib.suppress(OSError):  # only Linux has it
            Path("/proc/self/clear_refs").write_text("5")
            self._forgot = not self._on_cuda

    def peak(self) -> Memory:
        """The most that was used since `forget`, also in the middle of a step; where the system cannot say, now.

        On CUDA it is now, too, which comes to the same: PyTorch keeps what it had reserved.
        """
        return Memory("RSS", peak_of(os.getpid())) if self._forgot else self.read()


def peak_of(process: int) -> int:
    """The most bytes of memory that a running process ever held. Where the system does not say, what it holds now."""
    with contextlib.suppress(OSError, StopIteration):  # only Linux has it
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    memory = psutil.Process(process).memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def settle() -> None:
    """Gives back what the allocator holds without need, so that a difference of two readings means something."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


@cache
def keep() -> None:
    """Takes what was loaded out of sight of Python's collector of garbage.

    It lives as long as the process; to look through all of it takes the collector a tenth of a second, now and then, in
    the middle of a step. Done once: what is loaded later may go again.
    """
    gc.collect()
    gc.freeze()


def available_memory() -> int:
    """Bytes that this process may still take on the host: free memory, or what a container's limit leaves."""
    free = int(psutil.virtual_memory().available)
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        return free if limit == "max" else min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        return free


def total_memory() -> int:
    """Bytes of memory of the host."""
    return int(psutil.virtual_memory().total)


def nvml_bytes(pid: int) -> int | None:
    """GPU memory of a process over all NVIDIA devices in bytes, or None when NVML cannot tell."""
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
