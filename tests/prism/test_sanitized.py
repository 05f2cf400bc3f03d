"""The kernels' tests once more, on kernels that watch every address and every number of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from warpcortex_cli.errors import RunError
from warpcortex_cli.prism import library

# Not optimized, which takes GCC half a minute more than the tests save; without AVX-512, which takes it minutes; and
# without checks of pointers that ASan makes, too.
FLAGS = (
    "-O0",
    "-fsanitize=address,undefined",
    "-fno-sanitize=null,vptr,object-size,pointer-overflow,nonnull-attribute,returns-nonnull-attribute",
    "-fno-sanitize-recover=undefined",
)
TESTS = ("test_native.py", "test_fused.py")
# Only for the CPU that they were compiled for; what torch compiles is its own business.
RUN = """
import platform, sys
from pathlib import Path
import pytest
from warpcortex_cli.prism import library, native
native.built = library.built = lambda: Path(sys.argv[1])
platform.machine = lambda: "this one"
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-n0", "-k", "not compiled", *sys.argv[2:]]))
"""


def runtime(name: str) -> str:
    """Where a library of the compiler's lies; only its name where there is none."""
    done = subprocess.run([*library.command(), f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers' libraries are called so on Linux")
def test_the_kernels_touch_nothing_that_is_not_theirs(tmp_path: Path) -> None:
    tune = ("-mavx2", "-mfma") if platform.machine() == "x86_64" else ()
    watched = tmp_path / "kernels.so"
    try:
        found = [path for path in map(runtime, ("libasan.so", "libubsan.so")) if Path(path).is_absolute()]
        if len(found) < 2:
            pytest.skip("the compiler has no sanitizers of GCC's")
        library.build(watched, (*tune, *FLAGS))
    except (OSError, RunError) as error:
        pytest.skip(f"there is no such compiler: {error}")
    here = Path(__file__).parent
    env = {
        **os.environ,
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own are many
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",  # or threads that spin would take the time of those that compute
        "PYTEST_ADDOPTS": "--hypothesis-profile=ci",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(watched), *(str(here / name) for name in TESTS)],
        capture_output=True, text=True, env=env, cwd=here.parent.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
