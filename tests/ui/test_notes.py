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
def test_binary_notes_are_refused(tmp_path: Path, data: bytes, word: str) -> None:
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
def test_an_endless_device_is_refused_as_notes() -> None:
    with pytest.raises(UsageError, match="is a binary file"):
        read_notes(Path("/dev/zero"))


def test_stopping_takes_the_notes_back() -> None:
    session = FakeSession()
    session.load_notes("first")
    console = Console(file=StringIO(), force_terminal=True)
    assert load_with_progress(session, "second", "n", console, lambda: True) is None  # type: ignore[arg-type]
    assert [t.text for t in session.turns] == ["first"]
    assert load_with_progress(session, "third", "n", console) == 3  # type: ignore[arg-type]


def test_where_no_bar_can_be_drawn_a_line_now_and_then_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("warpcortex_cli.ui.notes.time.monotonic", lambda: now[0])
    out = StringIO()

    class Slow(FakeSession):
        def load_notes(self, text, name="notes", progress=None):  # type: ignore[no-untyped-def]
            for done in range(0, 5000, 1000):
                now[0] += 6
                progress(done, 5000)
            return 5000

    load_with_progress(Slow(), "x", "a\x1bb.txt", Console(file=out))  # type: ignore[arg-type]
    said = [line.split(": ")[1] for line in out.getvalue().splitlines()]
    assert said == ["1,000 of 5,000 tokens are read", "3,000 of 5,000 tokens are read"]
    assert "\x1b" not in out.getvalue()
    assert "reading" not in out.getvalue()
