"""The compiled kernels: kept once they are whole, made anew where they are not, wherever they may lie.

The compilers here are scripts that copy what the real one has made.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from warpcortex_cli.errors import RunError
from warpcortex_cli.prism import library, native

pytestmark = [
    pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler"),
    pytest.mark.skipif(os.name != "posix", reason="the compilers are shell scripts"),
]
Compiler = Callable[..., Path]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> tuple[Path, Path]:
    """The cache's folder and the temporary one, both new."""
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(library.platformdirs, "user_cache_path", lambda name: cache)
    monkeypatch.setattr(library.tempfile, "tempdir", str(temporary))
    caplog.set_level(logging.WARNING)
    return cache / "kernels", temporary


@pytest.fixture(scope="module")
def usual() -> Path:
    """What the real compiler has made."""
    return library.built()


@pytest.fixture
def compiler(usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Makes a compiler, which notes each run; and has CXX name it."""

    def make(version: str = "1", first: str = "", name: str = "c++", cxx: str = "{}") -> Path:
        path = tmp_path / name
        path.write_text(
            f'#!/bin/sh\ncase "$*" in *--version) echo {version}; exit; esac\n{first}\n'
            f'for last; do :; done\necho "$*" >> "{tmp_path}/runs"\ncp "{usual}" "$last"\n'
        )
        path.chmod(0o755)
        monkeypatch.setenv("CXX", cxx.format(path))
        return path

    return make


def runs(tmp_path: Path) -> int:
    path = tmp_path / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_it_is_compiled_once(places: tuple[Path, Path], compiler: Compiler, tmp_path: Path) -> None:
    compiler()
    first = library.built()
    made = first.stat().st_mtime_ns
    assert library.built() == first and first.stat().st_mtime_ns == made and runs(tmp_path) == 1
    assert [p.name for p in places[0].iterdir()] == [first.name]  # nothing else is left there
    assert list(places[1].iterdir()) == []


@pytest.mark.parametrize("harm", ["cut", "empty", "changed"])
def test_a_damaged_library_is_compiled_again(
    harm: str, places: tuple[Path, Path], compiler: Compiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiler()
    path = library.built()
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    path.write_bytes({"cut": whole[:1000], "empty": b"", "changed": bytes(changed)}[harm])
    assert library.built().read_bytes() == whole and runs(tmp_path) == 2
    assert "damaged" in caplog.messages[0] and len(caplog.messages) == 1
    assert native.opened(path).packed_bytes(8, 16, 32) > 0


@pytest.mark.parametrize("cxx", ["env {}", "env LANG=C '{}'", "{} -m64", "{}"])
def test_what_cxx_may_say(cxx: str, places: tuple[Path, Path], compiler: Compiler, tmp_path: Path) -> None:
    own = compiler(name="my c++" if cxx in ("{}", "env LANG=C '{}'") else "c++", cxx=cxx)
    library.built()
    assert runs(tmp_path) == 1 and library.program() == str(own)


def test_an_unclosed_quotation_mark_is_no_compiler(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ 'x")
    with pytest.raises(RunError, match=r"there is no C\+\+ compiler"):
        library.built()


def test_another_version_compiles_anew_and_a_missing_one_does_not(
    places: tuple[Path, Path], compiler: Compiler, tmp_path: Path
) -> None:
    compiler("1")
    first = library.built()
    compiler("2")
    second = library.built()
    assert first != second and runs(tmp_path) == 2
    compiler("1")
    assert library.built() == first and runs(tmp_path) == 2
    os.unlink(tmp_path / "c++")
    assert library.built() in (first, second)


def test_a_missing_openmp_is_said(
    places: tuple[Path, Path], compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    compiler(first='case "$*" in *-fopenmp*) echo "error: no -fopenmp."; exit 1; esac')
    library.built()
    [line] = caplog.messages
    assert line.endswith("cannot compile with OpenMP (error: no -fopenmp): the kernels run in one thread.")


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("echo 'x.h: fatal error: no such file.' >&2; exit 1", "x.h: fatal error: no such file"),
        ("exit 1", "it wrote nothing"),
        ("exit 0", "it wrote nothing"),
    ],
)
def test_a_failure_is_said(first: str, reason: str, places: tuple[Path, Path], compiler: Compiler) -> None:
    compiler(first=first)
    with pytest.raises(RunError) as told:
        library.built()
    assert told.value.message == f"warpcortex's kernels could not be compiled: {reason}."
    assert not places[0].exists() or not list(places[0].iterdir())


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(
    places: tuple[Path, Path], compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_LIMIT", 0.5)
    compiler(first=f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(RunError, match="did not end within"):
        library.built()
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_unwritable_cache_is_replaced_by_a_temporary_folder(
    places: tuple[Path, Path], compiler: Compiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiler()
    places[0].parent.write_text("")  # a file where the folder should be
    path = library.built()
    assert path.parent.parent == places[1] and path.parent.stat().st_mode & 0o777 == 0o700
    assert [str(places[0]) in line and str(path.parent) in line for line in caplog.messages] == [True]
    assert library.built() == path and runs(tmp_path) == 1


@pytest.mark.parametrize("harm", ["open", "link"])
def test_nothing_is_run_from_a_folder_of_others(
    harm: str, places: tuple[Path, Path], compiler: Compiler, tmp_path: Path
) -> None:
    compiler()
    places[0].parent.write_text("")
    path = library.built()
    if harm == "open":
        path.parent.chmod(0o777)
    else:
        path.parent.rename(tmp_path / "theirs")
        path.parent.symlink_to(tmp_path / "theirs")
    with pytest.raises(RunError, match="belongs to somebody else"):
        library.built()
    assert runs(tmp_path) == 2


def test_a_cache_that_forbids_execution_is_replaced_by_a_copy(
    places: tuple[Path, Path], compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler()
    opened, tried = native.opened, []

    def refused(path: Path) -> Any:
        tried.append(path.parent)
        if path.parent == places[0]:
            raise OSError("failed to map segment from shared object")
        return opened(path)

    monkeypatch.setattr(native, "opened", refused)
    assert native.kernels.__wrapped__().packed_bytes(8, 16, 32) > 0
    assert tried[0] == places[0] and tried[1].parent == places[1]
    [line] = caplog.messages
    assert "nothing may be run from" in line


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux says it")
def test_a_missing_compiler_is_named(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for cxx, said in (("no-such-compiler", "there is no C++ compiler no-such-compiler."), ("/", "/ cannot be run (")):
        monkeypatch.setenv("CXX", cxx)
        with pytest.raises(RunError) as told:
            library.built()
        assert said in told.value.message
