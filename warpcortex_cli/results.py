"""RESULTS.md: figures written by the command that measured them, with its commit, machine and date.

`--write-results` of a bench or an evaluation writes what the command prints as a section of `RESULTS.md` in its room. A
later run of the same command replaces its section. For modules that are no command of `warpcortex`, this module runs
them: `python -m warpcortex_cli.results eval.pocket --n 20` is
`python -m warpcortex_cli.eval.pocket --n 20` with its section written.
"""

from __future__ import annotations

import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from warpcortex_cli.errors import UsageError

FLAG = "--write-results"
HELP = "Also write what is printed into RESULTS.md, with command, commit, machine and date. In a git checkout only."
_PACKAGE = Path(__file__).parent
_TITLE = "# Results\n\nEach section was written by the command in its heading (`--write-results`).\n"
_EXTENSIONS = (  # the widest first
    ("AMX", "amx_int8"),
    ("AVX-512 VNNI", "avx512_vnni"),
    ("AVX-512", "avx512f"),
    ("AVX-VNNI", "avx_vnni"),
    ("AVX2", "avx2"),
    ("NEON", "asimd"),
)


class Recorded(AbstractContextManager[None]):
    """A context that records what is printed, and writes it to RESULTS.md at the end unless an error is raised.

    Args:
        room: "bench", "eval" or "lab", for its RESULTS.md.
        command: what was typed.

    Raises:
        UsageError: on entering, if there is no git checkout.
    """

    def __init__(self, room: str, command: str) -> None:
        self._path = _PACKAGE / room / "RESULTS.md"
        self._command = command

    def __enter__(self) -> None:
        self._commit = _commit()
        self._began = time.monotonic()
        self._usual, self._kept = sys.stdout, io.StringIO()
        sys.stdout = _Tee(self._usual, self._kept)  # type: ignore[assignment]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout = self._usual
        if kind is not None or sys.exc_info()[0] is not None:
            return
        seconds = time.monotonic() - self._began
        where = f"commit {self._commit}, {time.strftime('%Y-%m-%d')}, {machine()}, {seconds:,.0f} s"
        section = f"## `{self._command}`\n\n{where}\n\n{_block(self._kept.getvalue())}\n"
        before = self._path.read_text(encoding="utf-8") if self._path.exists() else _TITLE
        self._path.write_text(replaced(before, self._command, section), encoding="utf-8")


class _Tee:
    """A text stream that writes to two streams and otherwise behaves like the first."""

    def __init__(self, shown: TextIO, kept: TextIO) -> None:
        self._shown, self._kept = shown, kept

    def write(self, text: str) -> int:
        self._kept.write(text)
        return self._shown.write(text)

    def isatty(self) -> bool:
        return False  # no colours and cursor movements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)


def replaced(text: str, command: str, section: str) -> str:
    """The file with a command's section replaced, or added at the end."""
    head, *sections = re.split(r"(?m)^(?=## `)", text)
    heading = f"## `{command}`\n"
    mine = [i for i, old in enumerate(sections) if old.startswith(heading)]
    if mine:
        sections[mine[0]] = section
    else:
        sections.append(section)
    return "\n\n".join(part.rstrip() for part in (head, *sections)) + "\n"


def command_line(name: str, arguments: list[str]) -> str:
    """The command as typed, without the flag itself: `warpcortex bench --agents 1,10`."""
    return " ".join([name, *(shlex.quote(a) for a in arguments if a != FLAG)])


def machine() -> str:
    """The CPU's name, its widest vector extension, cores, and torch's version."""
    name, flags = "", set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = name or value
            elif key in ("flags", "Features"):
                flags |= set(value.split())
    except OSError:  # not Linux
        import platform

        name = platform.processor() or platform.machine()
    widest = next((label for label, flag in _EXTENSIONS if flag in flags), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name or 'unknown CPU'}{f' with {widest}' if widest else ''}, {cores} cores, torch {version('torch')}"


def recorded(wanted: bool, room: str, name: str) -> AbstractContextManager[None]:
    """A context that records what is printed, if `wanted`. `name`: how the program was called."""
    return Recorded(room, command_line(name, sys.argv[1:])) if wanted else nullcontext()


def _block(output: str) -> str:
    """Markdown tables as they are, everything else as a code block."""
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    if any(line.startswith("|--") for line in lines):
        return "\n".join(lines)
    return "\n".join(["```text", *lines, "```"])


def _commit() -> str:
    """The commit of the checkout that this program runs from, and whether there are uncommitted changes.

    Raises:
        UsageError: there is no checkout.
    """
    try:
        say = ["git", "-C", str(_PACKAGE)]
        commit = subprocess.run([*say, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        # Results written by earlier commands do not count as a difference.
        changed = [*say, "status", "--porcelain", "--untracked-files=no", ":/", ":(exclude,top)*RESULTS.md"]
        dirty = subprocess.run(changed, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{FLAG}: there is no git checkout here, so no commit to name.", "Leave it out.") from error
    return commit.stdout.strip() + (" and changes that are not committed" if dirty else "")


def main() -> None:
    """Runs a module as a program and writes its section."""
    try:
        _, module, *arguments = sys.argv
    except ValueError:
        sys.exit("usage: python -m warpcortex_cli.results ROOM.NAME [ARGUMENTS]")
    room, name = module.split(".", 1)[0], f"warpcortex_cli.{module}"
    if room not in ("bench", "eval", "lab"):
        sys.exit(f"{module}: only modules of bench, eval and lab have results.")
    sys.argv = [name, *arguments]
    with Recorded(room, command_line(f"python -m {name}", arguments)):
        runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
