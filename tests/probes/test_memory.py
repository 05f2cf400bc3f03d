"""Memory of the process, and the name of who measured it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from warpcortex_cli.probes import memory as probes
from warpcortex_cli.probes.memory import MemoryProbe, nvml_bytes

ALLOCATE = """
from warpcortex_cli.probes.memory import MemoryProbe
probe = MemoryProbe("cpu")
before = probe.read()
block = bytearray(b"x" * (64 * 2**20))
after = probe.read()
assert before.source == after.source == "RSS"
print(after.bytes - before.bytes)
"""


def test_rss_sees_an_allocation() -> None:
    """In a process of its own: in this one, what earlier tests left may be given back between the two readings."""
    done = subprocess.run([sys.executable, "-c", ALLOCATE], capture_output=True, text=True, check=True)
    assert 0.9 < int(done.stdout) / (64 * 2**20) < 1.1


PEAK = """
import os
from warpcortex_cli.probes.memory import MemoryProbe, peak_of
probe = MemoryProbe("cpu")
def hold():
    block = bytearray(b"x" * (64 * 2**20))
    del block
hold()
earlier = peak_of(os.getpid())
probe.forget()
before, now = probe.peak().bytes, probe.read().bytes
hold()
print(earlier - before, before - now, probe.peak().bytes - before, probe.read().bytes - now)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is what the process holds now")
def test_the_peak_is_the_most_since_it_was_forgotten() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    dropped, beside, more, kept = (int(n) / (64 * 2**20) for n in done.stdout.split())
    assert dropped > 0.9 and abs(beside) < 0.1
    assert more > 0.9 and kept < 0.1


def test_where_the_mark_cannot_be_reset_it_is_what_is_held_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most ever held would make whatever came later look as if it cost nothing."""

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(path, text)

    probe = MemoryProbe("cpu")
    probe.forget()
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(probes, "peak_of", lambda process: 1 << 60)
    probe.forget()
    assert probe.peak().bytes < 1 << 50


class NoCard(Exception):
    pass


def fake_nvml(processes: list[tuple[int, int | None]], works: bool = True) -> SimpleNamespace:
    def init() -> None:
        if not works:
            raise NoCard

    return SimpleNamespace(
        NVMLError=NoCard,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetComputeRunningProcesses=lambda i: [SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in processes],
    )


def test_nvml_counts_this_process_on_all_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([(os.getpid(), 1000), (1, 5)]))
    assert nvml_bytes(os.getpid()) == 2000
    memory = MemoryProbe("cuda:1").read()
    assert (memory.source, memory.bytes) == ("NVML", 2000)


@pytest.mark.parametrize(
    "nvml", [fake_nvml([], works=False), fake_nvml([(1, 5)]), fake_nvml([(os.getpid(), None)]), None]
)
def test_without_an_answer_of_nvml_the_allocator_answers(
    monkeypatch: pytest.MonkeyPatch, nvml: SimpleNamespace | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert nvml_bytes(os.getpid()) is None
    assert MemoryProbe("cuda").read().source == "CUDA allocator"


def test_what_a_command_loaded_is_out_of_the_collectors_sight() -> None:
    code = """
import gc
from warpcortex_cli.cli.output import open_prism
from warpcortex_cli.prism.options import LoadOptions
open_prism(model="pocket", profile=None, options=LoadOptions("cpu"))
print(gc.get_freeze_count() > 50_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True", done.stdout + done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told how to")
def test_what_a_step_computed_goes_back_to_the_system() -> None:
    """Small things that stay lie between the large ones, as in a step: a heap would keep the holes."""
    code = """
import sys
from warpcortex_cli.process import prepare
if sys.argv[1] == "lean":
    prepare()
import torch
from warpcortex_cli.probes.memory import MemoryProbe
torch.ones(1 << 21)  # 8 MiB: freed once, such buffers come from the heap by glibc's own rule
before = MemoryProbe("cpu").read().bytes
large, small = [], []
for _ in range(100):
    large.append(torch.ones(1 << 18))
    small.append(torch.ones(64))
large.clear()
print((MemoryProbe("cpu").read().bytes - before) >> 20)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    kept = {
        how: int(
            subprocess.run([sys.executable, "-c", code, how], env=environment, capture_output=True, check=True).stdout
        )
        for how in ("lean", "plain")
    }
    assert kept["lean"] < 20 < 80 < kept["plain"]
