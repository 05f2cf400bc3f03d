"""The chats of README and card come from `chat`, and what they show is what the text tells its reader to paste."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from warpcortex_cli.lab import picture

README = (
    "Paste these, in one go:\n\n    Mara keeps ropes.\n\n    How many?\n\nThen more.\n"
    "<!-- chat -->\nold\n<!-- end of chat -->\nor, in one go:\n\n    1 + 1\n\n"
    "<!-- chat -m pocket -->\nold\n<!-- end of chat -->\nend\n"
)
AT_WORK = ["you> Mara keeps ropes.", "How many?", "[MATH: 1] Adding.", "╭─ Streams ─╮", "╰──╯"]
DONE = ["you> Mara keeps ropes.", "How many?", "[MATH: 1] Adding.", "In total: 1.", "3 tokens · /thoughts"]


def record(options: list[str], text: str) -> picture.Screens:
    assert (options, text) in (([], "Mara keeps ropes.\n\nHow many?"), (["-m", "pocket"], "1 + 1"))
    return ([], ["you> "]) if options else (AT_WORK, DONE)


def test_each_chat_stands_in_its_place_and_writing_twice_changes_nothing() -> None:
    written = picture.with_chats(README, record)
    first, second = re.findall(r"<!-- chat.*? -->\n(.*?)<!-- end", written, re.DOTALL)
    assert [row.removeprefix("    ") for row in first.strip("\n").splitlines()] == [*AT_WORK, "", *DONE[2:]]
    assert second == "\n    you>\n\n"
    assert re.sub(r"(<!-- chat.*? -->\n).*?(?=<!-- end)", r"\1old\n", written, flags=re.DOTALL) == README
    assert picture.with_chats(written, record) == written


@pytest.mark.parametrize(("path", "options"), [(picture.README, []), (picture.CARD, ["-m", "pocket"])])
def test_what_is_pasted_is_what_the_text_says(path: Path, options: list[str]) -> None:
    text = path.read_text(encoding="utf-8")

    def show(given: list[str], pasted: str) -> picture.Screens:
        assert given == options and pasted.endswith("?") and pasted.splitlines()[0] in text
        return [], ["shown"]

    assert picture.with_chats(text, show).count("    shown\n") == 1


def test_a_readme_without_a_place_for_it_is_left_alone() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        picture.with_chats("nothing here", record)
