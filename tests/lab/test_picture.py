"""The README's chat comes from `chat`, and what it shows is what the README tells its reader to paste."""

from __future__ import annotations

import pytest

from warpcortex_cli.lab import picture

README = (
    "Paste these, in one go:\n\n    Mara keeps ropes.\n\n    How many?\n\nThen more.\n"
    f"{picture.BEGIN}old\n{picture.END}end\n"
)
AT_WORK = ["you> Mara keeps ropes.", "How many?", "[MATH: 1] Adding.", "╭─ Streams ─╮", "╰──╯"]
DONE = ["you> Mara keeps ropes.", "How many?", "[MATH: 1] Adding.", "In total: 1.", "3 tokens · /thoughts"]


def test_what_is_pasted_is_what_the_readme_says() -> None:
    assert picture.pasted(README) == "Mara keeps ropes.\n\nHow many?"
    assert "ropes of Mara and lamps of Otto" in picture.pasted(picture.README.read_text(encoding="utf-8"))


def test_both_screens_stand_between_the_two_lines() -> None:
    written = picture.with_chat(README, AT_WORK, DONE)
    before, _, rest = written.partition(picture.BEGIN)
    shown, _, after = rest.partition(picture.END)
    assert (before, after) == (README.partition(picture.BEGIN)[0], "end\n")
    rows = [row.removeprefix("    ") for row in shown.strip("\n").splitlines()]
    assert rows == [*AT_WORK, "", *DONE[2:]]


def test_writing_twice_changes_nothing() -> None:
    once = picture.with_chat(README, AT_WORK, DONE)
    assert picture.with_chat(once, AT_WORK, DONE) == once


def test_a_readme_without_a_place_for_it_is_left_alone() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        picture.with_chat("nothing here", AT_WORK, DONE)
