"""Settings that have to reach what torch brings along."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_LOADED = """
from warpcortex_cli.process import prepare
prepare()
import torch
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux only")
@pytest.mark.parametrize(
    ("given", "spins"), [({}, "2000000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_threads_wait_awake_for_their_next_work_unless_the_user_says_otherwise(
    given: dict[str, str], spins: str
) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = {**plain, **given, "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", _LOADED], env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


@pytest.mark.parametrize("package", ["bench", "eval"])
def test_what_measures_runs_as_the_program_does(package: str) -> None:
    """`python -m` of a bench or an evaluation comes past no command line: its package makes the settings."""
    code = f"import warpcortex_cli.{package}, sys, os; print('torch' in sys.modules, os.environ['LRU_CACHE_CAPACITY'])"
    plain = {name: value for name, value in os.environ.items() if name != "LRU_CACHE_CAPACITY"}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "24"]


def test_the_program_makes_them_before_torch_is_loaded() -> None:
    """What freed buffers and kernels hold would otherwise count as memory of agents."""
    code = (
        "import os, sys\n"
        "from warpcortex_cli import process\n"
        "seen = []\n"
        "class C:\n"
        "    def __init__(self, name): pass\n"
        "    def mallopt(self, *a): seen.append(a)\n"
        "process.ctypes.CDLL = C\n"
        "from warpcortex_cli.cli.app import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, os.environ['LRU_CACHE_CAPACITY'], len(seen))\n"
    )
    for given, expected in (({}, "False 24 2"), ({"LRU_CACHE_CAPACITY": "7", "MALLOC_ARENA_MAX": "1"}, "False 7 0")):
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LRU_", "ONEDNN_"))}
        done = subprocess.run(
            [sys.executable, "-c", code], env={**plain, **given}, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == expected
