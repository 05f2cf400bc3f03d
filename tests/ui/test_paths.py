from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warpcortex_cli.ui.paths import dropped_path

posix = pytest.mark.skipif(sys.platform == "win32", reason="a backslash is no escape there")
NAMES = ["plain.txt", "with space.txt", "it's.txt", "100% é.txt", "a\\b.txt", "a\\ b.txt", "~tilde.txt", "#1 & (2).txt"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir with space").mkdir()
    (tmp_path / "dir with space" / "x.txt").write_text("x")
    return tmp_path


@posix
@pytest.mark.parametrize(
    "written",
    [
        r"dir\ with\ space/x.txt",
        "'dir with space/x.txt'",
        '"dir with space/x.txt"',
        "dir with space/x.txt",
        "'dir with'\\ space/x.txt",
        "{url}/dir%20with%20space/x.txt",
        "FILE://localhost{path}/dir%20with%20space/x.txt",
        "file:{path}/dir with space/x.txt",
    ],
)
def test_a_dropped_file_is_found(folder: Path, written: str) -> None:
    path = dropped_path(written.format(url=folder.as_uri(), path=folder))
    assert path.read_text() == "x"


@posix
@pytest.mark.parametrize("name", NAMES)
def test_what_exists_as_it_is_written_wins(folder: Path, name: str) -> None:
    (folder / name).write_text(name)
    for written in (name, shlex.quote(name), (folder / name).as_uri(), str(folder / name)):
        assert dropped_path(written).read_text() == name
    (folder / f"'{name}'").write_text("quoted")
    assert dropped_path(f"'{name}'").read_text() == "quoted"


@posix
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"my\ talk.md", "my talk.md"),
        ("'my talk.md'", "my talk.md"),
        ("my talk.md", "my talk.md"),
        (r"C:\dir\talk.md", r"C:\dir\talk.md"),
        (r"dir\talk.md", r"dir\talk.md"),
        ("it's new.md", "it's new.md"),
        ("file:///no/such%20dir/x", "/no/such dir/x"),
        ("file://other-host/x", "file:/other-host/x"),
    ],
)
def test_a_new_file_gets_the_name_that_was_meant(folder: Path, written: str, meant: str) -> None:
    assert dropped_path(written) == Path(meant)


CHARACTERS = st.characters(exclude_characters="/\x00", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]) | st.just(" ")


@posix
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(CHARACTERS, min_size=1, max_size=20).map(str.strip).filter(lambda name: name not in ("", ".", "..")))
def test_any_name_is_found_however_it_is_written(folder: Path, name: str) -> None:
    (folder / name).write_text(name)
    escaped = "".join(c if c.isalnum() or c in "._-" else f"\\{c}" for c in name)
    for written in (name, escaped, shlex.quote(name), (folder / name).as_uri()):
        assert dropped_path(written).read_text() == name, written
    os.unlink(folder / name)
