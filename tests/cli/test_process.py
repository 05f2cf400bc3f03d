"""Settings that have to reach what torch brings along."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_LOADED = """
from warpcortex_cli.cli.process import prepare
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
