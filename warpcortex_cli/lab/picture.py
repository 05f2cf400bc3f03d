"""The chats in README and in pocket's card, recorded from `chat`: `python -m warpcortex_cli.lab.picture [--write]`.

Each stands between the lines `<!-- chat OPTIONS -->` and `<!-- end of chat -->`. Starts `warpcortex chat OPTIONS` in
its own terminal, pastes what the text above says, and prints the screen with the last panels, if there were any, and
after the reply. `--write` puts both there.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
CARD = README.parent / "warpcortex_cli" / "pocket" / "README.md"
_PLACE = re.compile(r"<!-- chat(?P<options>[^\n]*?) -->\n.*?<!-- end of chat -->\n", re.DOTALL)
Screens = tuple[list[str], list[str]]  # rows while the panels were there, and after the reply
WIDTH, HEIGHT = 100, 60
_PASTE = "\x1b[200~{}\x1b[201~\r"  # bracketed: its newlines are text


def pasted(readme: str) -> str:
    """The text that the README tells the reader to paste: the last indented block after the words `in one go:`."""
    block = readme.rsplit("in one go:\n\n", 1)[1]
    lines = re.match(r"(?:(?: {4}.*)?\n)*?(?=\S|\Z)", block)
    assert lines is not None
    return "\n".join(line.removeprefix("    ") for line in lines[0].splitlines()).strip()


def chat(options: list[str], text: str, timeout: float = 120.0) -> Screens:
    """The terminal's rows while `warpcortex chat` answers `text` and after, both from the user's words on.

    Raises:
        RuntimeError: there was no reply within `timeout` seconds.
    """
    import pexpect  # type: ignore[import-untyped]
    import pyte

    screen = pyte.Screen(WIDTH, HEIGHT)
    stream = pyte.Stream(screen)

    at_work: list[str] = []

    def shown() -> list[str]:
        return [row.rstrip() for row in screen.display]

    def wait(program: pexpect.spawn, ready: Callable[[list[str]], bool]) -> None:
        end = time.monotonic() + timeout
        while not ready(shown()):
            try:
                stream.feed(program.read_nonblocking(65536, timeout=1))
                if any("─ Streams" in row for row in shown()) and any(row.startswith("╰") for row in shown()):
                    at_work[:] = shown()
            except pexpect.TIMEOUT:
                pass
            except pexpect.EOF:
                end = 0.0
            if time.monotonic() > end:
                raise RuntimeError("chat did not answer:\n" + "\n".join(shown()).strip())

    with tempfile.TemporaryDirectory() as home:  # neither sessions nor settings of the user
        program = pexpect.spawn(
            sys.executable, ["-m", "warpcortex_cli", "chat", *options], encoding="utf-8",
            dimensions=(HEIGHT, WIDTH), env=_environment(home),
        )  # fmt: skip
        wait(program, lambda rows: "you>" in rows)
        program.send(_PASTE.format(text))
        wait(program, lambda rows: any("/thoughts" in row for row in rows) and "you>" in rows)
        program.sendeof()
        program.close()
    return _conversation(at_work, "╰") if at_work else [], _conversation(shown(), "/thoughts")


def _conversation(rows: list[str], end: str) -> list[str]:
    """The rows from the user's words to the last row that contains `end`."""
    first = next(number for number, row in enumerate(rows) if row.startswith("you> "))
    return rows[first : 1 + max(number for number, row in enumerate(rows) if end in row)]


def _environment(home: str) -> dict[str, str]:
    return {
        **os.environ,
        "TERM": "xterm-256color",
        "XDG_DATA_HOME": home,
        "XDG_STATE_HOME": home,
        "NO_COLOR": "1",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }


def with_chats(readme: str, record: Callable[[list[str], str], Screens]) -> str:
    """`readme` with what `record` gives for the options and the text of each chat.

    Raises:
        ValueError: there is no place for one.
    """

    def put(place: re.Match[str]) -> str:
        at_work, done = record(place["options"].split(), pasted(readme[: place.start()]))
        rows = [*at_work, "", *_new(at_work, done)] if at_work else done
        shown = "\n".join(f"    {row}".rstrip() for row in rows)
        return f"<!-- chat{place['options']} -->\n\n{shown}\n\n<!-- end of chat -->\n"

    if not _PLACE.search(readme):
        raise ValueError("the text lacks the lines <!-- chat --> and <!-- end of chat -->")
    return _PLACE.sub(put, readme)


def _new(at_work: list[str], done: list[str]) -> list[str]:
    """The rows of `done` that were not on the screen before, and the row they continue."""
    same = next((number for number, (a, b) in enumerate(zip(at_work, done, strict=False)) if a != b), len(done))
    return done[max(0, same - 1) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them there")
    args = parser.parse_args()
    for path in (README, CARD):
        written = with_chats(path.read_text(encoding="utf-8"), chat)
        print("\n".join(place[0] for place in _PLACE.finditer(written)))
        if args.write:
            path.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
