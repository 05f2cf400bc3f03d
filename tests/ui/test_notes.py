from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.ui.fake_session import FakeSession
from warpcortex_cli.errors import UsageError
from warpcortex_cli.ui.notes import load_with_progress, read_notes


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("Mara: 47 ropes, café".encode(), "Mara: 47 ropes, café"),
        (b"\xef\xbb\xbfMara", "Mara"),
        ("Mara café".encode("utf-16"), "Mara café"),
        (b"said \xc3\xa2\xe2\x82\xac\xc2\x9d. Mara keeps ropes: 47.", "said \u00e2\u20ac. Mara keeps ropes: 47."),
        (("\x90\x98\x9b\x9d\x9e\x9f" + "Mara " * 300).encode(), "Mara " * 300),
        ("\u2067שלום\u2069 \u202eropes".encode(), "\u2067שלום\u2069 \u202eropes"),
        (b"\x1b]Mara keeps ropes.\nOtto", "]Mara keeps ropes.\nOtto"),
        (b"one\x0ctwo\x0bthree\rfour", "one\ntwo\nthree\nfour"),
        (b"a\r\nb\x1b[31mc\x1b[0m", "a\nbc"),
        (b"[bold]x[/bold]", "[bold]x[/bold]"),
        (b"", ""),
    ],
)
def test_text(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    assert read_notes(path) == expected


@pytest.mark.parametrize(
    ("data", "word"), [(b"\x7fELF\0\0\0", "binary"), (b"caf\xe9", "byte 3"), (b"\xff\xfea", "not text")]
)
def test_what_is_not_text(tmp_path: Path, data: bytes, word: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=word):
        read_notes(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no notes file .*none\.txt"):
        read_notes(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="folder"):
        read_notes(tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        read_notes(Path("a\0b"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such device")
def test_a_device_without_an_end_is_no_text() -> None:
    with pytest.raises(UsageError, match="is a binary file"):
        read_notes(Path("/dev/zero"))


def test_stopping_takes_the_notes_back() -> None:
    session = FakeSession()
    session.load_notes("first")
    console = Console(file=StringIO(), force_terminal=True)
    assert load_with_progress(session, "second", "n", console, lambda: True) is None  # type: ignore[arg-type]
    assert [t.text for t in session.turns] == ["first"]
    assert load_with_progress(session, "third", "n", console) == 3  # type: ignore[arg-type]
