"""What was measured once comes back as it was, or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from warpcortex_cli.prism import kept as module
from warpcortex_cli.prism.kept import keep, kept

KEY = {"weights": "abc", "ids": [1, 2]}
VALUE = {"watches": [[1, 0]], "mean": [0.1, -2.5e-8]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "folder", lambda: tmp_path / "measured")
    return tmp_path / "measured"


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_it_comes_back_under_its_own_key(folder: Path) -> None:
    assert kept("heads", KEY) is None
    keep("heads", KEY, VALUE)
    assert kept("heads", KEY) == VALUE
    assert kept("heads", {**KEY, "weights": "abd"}) is None
    assert kept("trials", KEY) is None


def test_another_version_measures_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("heads", KEY, VALUE)
    monkeypatch.setattr(module, "__version__", "99.0")
    assert kept("heads", KEY) is None


def test_a_machine_is_its_kernels_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    before = module.machine()
    monkeypatch.setattr(module.library, "key", lambda: "another CPU")
    assert module.machine() != before
    assert {"torch", "transformers"} <= before.keys()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"0.1", b"0.2"),
        lambda data: data + b" ",
        lambda data: b"\xff\xfe" + data,
        lambda data: b"x" * (module._LARGEST + 1),
    ],
    ids=["empty", "cut", "changed", "longer", "no text", "huge"],
)
def test_what_is_damaged_is_not_there(folder: Path, damage: object) -> None:
    keep("heads", KEY, VALUE)
    path = only(folder)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert kept("heads", KEY) is None
    keep("heads", KEY, VALUE)
    assert kept("heads", KEY) == VALUE


def test_a_file_of_another_key_is_not_taken_for_it(folder: Path) -> None:
    """As it would be by a copy, or two keys of one name."""
    keep("heads", {"weights": "other"}, VALUE)
    other = only(folder)
    keep("heads", KEY, [])
    (mine,) = [p for p in folder.iterdir() if p != other]
    os.replace(other, mine)
    assert kept("heads", KEY) is None


def test_what_is_whole_but_means_nothing_is_not_there(folder: Path) -> None:
    keep("heads", KEY, VALUE)
    path = only(folder)
    for text in (b"[]", b"{}", b'{"key": {}}', b"nonsense", b"[" * 100_000):
        path.write_bytes(module._digest(text).encode() + b"\n" + text)
        assert kept("heads", KEY) is None


@pytest.mark.parametrize("place", ["a file", "closed"])
def test_where_nothing_can_be_written_nothing_is_kept(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "closed" and os.name == "posix" and os.getuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "a file").write_text("")
    (tmp_path / "closed").mkdir(mode=0o500)
    monkeypatch.setattr(module, "folder", lambda: tmp_path / place / "measured")
    keep("heads", KEY, VALUE)
    assert kept("heads", KEY) is None


def test_the_oldest_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    for n in range(5):
        keep("heads", {"n": n}, n)
        for path in folder.iterdir():  # clocks of files are coarse
            os.utime(path, (held := json.loads(path.read_bytes().partition(b"\n")[2])["value"], held))
    assert [kept("heads", {"n": n}) for n in range(5)] == [None, None, 2, 3, 4]


def _write_many(path: str) -> None:
    module.folder = lambda: Path(path)
    for n in range(100):
        keep("heads", KEY, [n] * 500)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced there")
def test_two_processes_write_at_once(folder: Path) -> None:
    writers = [multiprocessing.get_context("fork").Process(target=_write_many, args=(str(folder),)) for _ in range(2)]
    keep("heads", KEY, [0] * 500)
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = kept("heads", KEY)
        assert found is not None and found == [found[0]] * 500
    assert [writer.exitcode for writer in writers if writer.join() is None] == [0, 0]
    assert len(list(folder.iterdir())) == 1
