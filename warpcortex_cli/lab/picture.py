"""The README's chat, recorded from `chat` itself: `python -m warpcortex_cli.lab.picture [--write]`.

Starts `warpcortex chat` in its own terminal, pastes the notes and the question from the README, and prints the screen
twice: with the last panels, and after the reply. `--write` puts both into the README, between the lines `<!-- chat -->`
and `<!-- end of chat -->`.
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
BEGIN, END = "<!-- chat -->\n", "<!-- end of chat -->\n"
WIDTH, HEIGHT = 100, 60
_PASTE = "\x1b[200~{}\x1b[201~\r"  # bracketed: its newlines are text


def pasted(readme: str) -> str:
    """The text that the README tells the reader to paste: the indented block after the words `in one go:`."""
    block = readme.split("in one go:\n\n", 1)[1]
    lines = re.match(r"(?:(?: {4}.*)?\n)*?(?=\S)", block)
    assert lines is not None
    return "\n".join(line.removeprefix("    ") for line in lines[0].splitlines()).strip()


def chat(text: str, timeout: float = 120.0) -> tuple[list[str], list[str]]:
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
            sys.executable, ["-m", "warpcortex_cli", "chat", "-m", "pocket"], encoding="utf-8",
            dimensions=(HEIGHT, WIDTH), env=_environment(home),
        )  # fmt: skip
        wait(program, lambda rows: "you>" in rows)
        program.send(_PASTE.format(text))
        wait(program, lambda rows: any("/thoughts" in row for row in rows) and "you>" in rows)
        program.sendeof()
        program.close()
    return _conversation(at_work, "╰"), _conversation(shown(), "/thoughts")


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


def with_chat(readme: str, at_work: list[str], done: list[str]) -> str:
    """`readme` with both screens between its two lines.

    Raises:
        ValueError: one of them is missing.
    """
    before, _, rest = readme.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{README} lacks the lines {BEGIN.strip()} and {END.strip()}")
    shown = "\n".join(f"    {row}".rstrip() for row in [*at_work, "", *_new(at_work, done)])
    return f"{before}{BEGIN}\n{shown}\n\n{END}{after}"


def _new(at_work: list[str], done: list[str]) -> list[str]:
    """The rows of `done` that were not on the screen before, and the row they continue."""
    same = next((number for number, (a, b) in enumerate(zip(at_work, done, strict=False)) if a != b), len(done))
    return done[max(0, same - 1) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into the README")
    args = parser.parse_args()
    readme = README.read_text(encoding="utf-8")
    at_work, done = chat(pasted(readme))
    print("\n".join([*at_work, "", *done]))
    if args.write:
        README.write_text(with_chat(readme, at_work, done), encoding="utf-8")


if __name__ == "__main__":
    main()
