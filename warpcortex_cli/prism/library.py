"""The kernels' library: compiled once on a machine, by the machine's own C++ compiler, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from warpcortex_cli.errors import RunError

_FOLDER = Path(__file__).with_name("kernels")
# Whole numbers wrap: those made of what is not a number are beyond all bounds, and are used for nothing.
_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-Wno-psabi")
_THREADS = "-fopenmp"


def compiler() -> str:
    """The C++ compiler that is called, and no other one where this is missing."""
    return os.environ.get("CXX", {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++"))


def built() -> Path:
    """The library's file, compiled if this machine has not done so yet.

    Raises:
        RunError: it cannot be compiled here, with the reason.
    """
    folder = platformdirs.user_cache_path("warpcortex") / "kernels"
    path = folder / f"{_key()}.so"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / path.name
            build(made)
            made.replace(path)  # all or nothing: another process may be doing the same
    except FileNotFoundError as error:
        raise _failed(f"there is no C++ compiler {compiler()}") from error
    except OSError as error:
        raise _failed(str(error.strerror or error)) from error
    return path


def _key() -> str:
    """What the compiled code depends on: its text, the compiler, and the CPU that it is made for."""
    cpu = platform.machine() + platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu += next((line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    parts = (
        *(p.read_text(encoding="utf-8") for p in sorted(_FOLDER.iterdir()) if p.suffix in (".h", ".cpp")),
        compiler(),
        " ".join(_FLAGS),
        cpu,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build(path: Path, tune: Sequence[str] = ()) -> None:
    """Compiles the kernels into a file, for this machine's CPU or, with flags, for another one.

    Raises:
        RunError: it failed, with the reason.
        OSError: there is no such compiler.
    """
    tune = tune or ("-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",)
    said = ""
    for threads in ((_THREADS,), ()):  # Apple's compiler knows no OpenMP: then one thread does it all
        done = subprocess.run(
            [compiler(), *_FLAGS, *tune, *threads, str(_FOLDER / "kernels.cpp"), "-o", str(path)],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return
        said = said or done.stderr
    lines = [line.strip() for line in said.splitlines() if "error" in line] or said.splitlines() or ["it failed"]
    raise _failed(lines[0].rstrip("."))


def _failed(reason: str) -> RunError:
    return RunError(
        f"warpcortex's kernels could not be compiled: {reason}.",
        "They take a C++ compiler such as g++; without --compile and --quantize bf16 or int4 nothing has to be.",
    )
