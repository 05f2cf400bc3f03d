"""The slash commands of `chat`. Each is one function and one row in `COMMANDS`."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from warpcortex_cli.errors import UsageError
from warpcortex_cli.ui.markdown import as_markdown
from warpcortex_cli.ui.notes import load_with_progress, notes_line, read_notes
from warpcortex_cli.ui.panels import counts, memory_table, river_words, size, streams_table, thoughts_list
from warpcortex_cli.ui.paths import dropped_path
from warpcortex_cli.ui.safe import one_line
from warpcortex_cli.ui.terminal import interrupts, quiet_input

if TYPE_CHECKING:
    from warpcortex_cli.engine.session import Session

_COMMAND = re.compile(r"/([A-Za-z]+)(?:\s+(.*))?\Z", re.DOTALL)
_SHOWN = 40  # Streams or thoughts in one listing, the newest
_SHOWN_RECALLED = 12


@dataclass
class Desk:
    """What commands work on. They print to `console`; `leaving` ends the chat."""

    session: Session
    console: Console
    injecting: bool
    leaving: bool = False
    saved: set[str] = field(default_factory=set)
    warned: set[str] = field(default_factory=set)

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style))

    def warn(self) -> None:
        """Reports a storage problem once, such as a full disk or damaged blocks. The chat goes on."""
        memory = self.session.snapshot().memory
        if memory.failure and memory.failure not in self.warned:
            self.say(memory.failure, "red")
        anew = f"{memory.anew} damaged blocks were computed anew from their tokens."
        if memory.anew and anew not in self.warned:
            self.say(anew, "dim")
        self.warned |= {memory.failure, anew}


@dataclass(frozen=True)
class Command:
    """`argument` is how help shows it: "" (none), "on|off", "FILE", "X", "[NAME]"."""

    name: str
    argument: str
    help: str
    run: Callable[[Desk, str], None]


def is_command(line: str) -> bool:
    """Whether a line is a slash command: a slash and letters, then nothing or a space. `/usr/bin` is not."""
    return _COMMAND.match(line.strip()) is not None


def is_known(line: str) -> bool:
    """Whether a line is a slash command that exists."""
    match = _COMMAND.match(line.strip())
    return match is not None and any(c.name == match[1].lower() for c in COMMANDS)


def run_command(desk: Desk, line: str) -> None:
    """Runs a slash command.

    Raises:
        WarpError: it does not exist, was used wrongly, or failed.
    """
    match = _COMMAND.match(line.strip())
    assert match is not None, "the caller asks is_command first"
    name, argument = match[1].lower(), (match[2] or "").strip()
    for command in COMMANDS:
        if command.name == name:
            if argument and not command.argument:
                raise UsageError(f"/{name} takes no argument.", f"Type /{name} alone.")
            command.run(desk, argument)
            return
    raise unknown_command(line)


def unknown_command(line: str) -> UsageError:
    """The error for a slash command that does not exist."""
    match = _COMMAND.match(line.strip())
    assert match is not None, "the caller asks is_command first"
    near = difflib.get_close_matches(match[1].lower(), [c.name for c in COMMANDS], 1, 0.4)
    return UsageError(
        f"there is no command /{one_line(match[1], 40)}{f'; did you mean /{near[0]}?' if near else '.'}",
        "/help lists them.",
    )


def _help(desk: Desk, argument: str) -> None:
    table = Table.grid(padding=(0, 2))
    for command in COMMANDS:
        table.add_row(Text(f"  /{command.name} {command.argument}"), Text(command.help, style="dim"))
    desk.console.print(table)
    desk.say("  Ctrl-C stops a reply, Ctrl-D leaves, Alt-Enter starts a new line, arrow up recalls.", "dim")


def _agents(desk: Desk, argument: str) -> None:
    view = desk.session.snapshot()
    desk.say(
        f"{river_words(view, 0, 0)} in the last reply, {view.river_positions:,} in context, "
        f"KV {size(view.river_kv_bytes)}"
    )
    if view.synapse:
        synapse = view.synapse
        desk.say(
            f"Synapse v{synapse.version}: {synapse.landmarks:,} of {synapse.context:,} tokens, "
            f"{size(synapse.bytes)}, shared by all"
        )
    gate = view.gate
    desk.say(f"Gate: {gate.passed} passed, {gate.rejected} rejected, {gate.mode}, threshold {gate.threshold:.2f}")
    if not view.streams:
        desk.say("No Streams yet.", "dim")
        return
    shown, earlier = view.streams[-_SHOWN:], view.streams[:-_SHOWN]
    unseen = len(earlier) + sum(view.forgotten.values())
    more = f"+{unseen} earlier: {counts(earlier, view.forgotten)}" if unseen else ""
    desk.console.print(streams_table(shown, more, counts(view.streams, view.forgotten), reasons=True))


def _thoughts(desk: Desk, argument: str) -> None:
    thoughts, earlier = desk.session.thoughts(), desk.session.earlier_thoughts()
    if earlier:
        desk.say(f"The River still holds {len(earlier)} from earlier:")
        for number, text in earlier[-_SHOWN:]:
            desk.say(f"  #{number} {one_line(text, 400)}", "dim")
    if not thoughts:
        desk.say(
            "No Stream has finished a thought since." if earlier else "No Stream has finished a thought yet.", "dim"
        )
        return
    if len(thoughts) > _SHOWN:
        desk.say(f"+{len(thoughts) - _SHOWN} earlier: {counts(thoughts[:-_SHOWN])}", "dim")
    desk.console.print(thoughts_list(thoughts[-_SHOWN:]))


def _memory(desk: Desk, argument: str) -> None:
    view = desk.session.snapshot()
    memory = view.memory
    desk.console.print(memory_table(view))
    desk.say(
        f"A step reads at most {memory.bound:,} tokens (the first, recalled ones, the tail) and {memory.thoughts:,} of "
        "thoughts.",
        "dim",
    )
    desk.say(f"The next token reads, beside the tail: {desk.session.reads()}.", "dim")
    earlier = [f"{n:,} as {kind}" for kind, n in memory.formats.items() if kind != memory.format]
    desk.say(
        f"Blocks are stored as {memory.format}."
        if not earlier
        else f"Blocks are stored as {memory.format} from now on; those from before stay {', '.join(earlier)}.",
        "dim",
    )
    if memory.anew:
        desk.say(f"{memory.anew} damaged blocks were computed anew from their tokens.")
    if memory.failure:
        desk.say(memory.failure, "red")
    if not memory.stored:
        desk.say("Everything is in the tail: nothing had to be recalled.", "dim")
        return
    recalled = desk.session.recalled()
    desk.say(f"Recalled for the last answer: {len(recalled)} sentence{'' if len(recalled) == 1 else 's'}.")
    for text, shared in recalled[:_SHOWN_RECALLED]:
        why = f"shares {', '.join(one_line(w, 40) for w in shared)}" if shared else "its fingerprint is near"
        desk.say(f"  {one_line(text, 200)}")
        desk.say(f"    {why}", "dim")
    if len(recalled) > _SHOWN_RECALLED:
        desk.say(f"  and {len(recalled) - _SHOWN_RECALLED} more", "dim")


def _inject(desk: Desk, argument: str) -> None:
    choice = argument.lower()
    if choice not in ("", "on", "off"):
        raise UsageError("/inject needs on or off.", "Type /inject on or /inject off.")
    if choice:
        desk.injecting = choice == "on"
        desk.session.set_injection(desk.injecting)
    desk.say(
        "Thoughts that pass the Gate are injected."
        if desk.injecting
        else "Injection is off: thoughts are judged, not injected."
    )


def _undo(desk: Desk, argument: str) -> None:
    result = desk.session.undo()
    if result is None:
        desk.say("There is nothing to take back.", "dim")
    elif result.kind == "thought":
        desk.say(f"Withdrew the thought: {one_line(result.text)}")
    else:
        desk.say(f"Took back the turn: {one_line(result.text)}")


def _gate(desk: Desk, argument: str) -> None:
    if argument:
        try:
            threshold = float(argument)
        except ValueError:
            threshold = math.nan
        if not -1 <= threshold <= 1:
            raise UsageError(f"the Gate's threshold is a number from -1 to 1, not {one_line(argument, 40)}.")
        desk.session.set_gate(threshold)
    gate = desk.session.snapshot().gate
    desk.say(f"Gate: {gate.mode}, threshold {gate.threshold:.2f}; {gate.passed} passed, {gate.rejected} rejected.")


def _load(desk: Desk, argument: str) -> None:
    path = _path(argument, "/load")
    text = read_notes(path)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True

    with quiet_input(), interrupts(stop):
        tokens = load_with_progress(desk.session, text, path.name, desk.console, lambda: stopped)
    if tokens is None:
        desk.say("Stopped; the notes were not loaded.", "dim")
    elif tokens == 0:
        desk.say(f"{one_line(path.name)} holds no text.", "dim")
    else:
        desk.console.print(notes_line(tokens, text, path.name))


def _profile(desk: Desk, argument: str) -> None:
    from warpcortex_cli.profile import load_profile, shipped_profiles

    if not argument:
        desk.say(f"Profile {one_line(desk.session.profile.name)}; shipped are {', '.join(shipped_profiles())}.")
        return
    profile = load_profile(argument if argument in shipped_profiles() else str(_path(argument, "/profile")))
    desk.session.set_profile(profile)
    desk.injecting = profile.injection.enabled
    desk.say(
        f"Profile {one_line(profile.name)} with {len(profile.roles)} roles, on the same model. "
        "/clear makes the River read its prompt."
    )


def _clear(desk: Desk, argument: str) -> None:
    desk.session.clear()
    desk.say("A new conversation; profile and settings stay.", "dim")


def _save(desk: Desk, argument: str) -> None:
    path = _path(argument, "/save")
    place = os.path.realpath(path)
    if os.path.exists(path) and place not in desk.saved:
        raise UsageError(f"{one_line(str(path))} exists already.", "Give another name.")
    try:
        path.write_text(as_markdown(desk.session), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {one_line(str(path))}: {getattr(error, 'strerror', None) or error}.") from error
    desk.saved.add(place)
    desk.say(f"Saved to {one_line(str(path))}.", "dim")


def _exit(desk: Desk, argument: str) -> None:
    desk.leaving = True


def _path(argument: str, command: str) -> Path:
    if not argument.strip("\"'"):
        raise UsageError(f"{command} needs a file name.", f"Type {command} FILE.")
    try:
        return dropped_path(argument)
    except RuntimeError as error:
        raise UsageError(f"there is no home folder like that in {one_line(argument)}.", "Give a full path.") from error


COMMANDS = (
    Command("help", "", "this list", _help),
    Command("agents", "", "the River and all Streams: what started them, state, tokens, landmarks, memory", _agents),
    Command("thoughts", "", "thoughts, injected or rejected, with score and reason", _thoughts),
    Command("memory", "", "tail, blocks and tiers; what was recalled for the last answer, and why", _memory),
    Command("inject", "on|off", "whether thoughts join the River's attention", _inject),
    Command("undo", "", "withdraw the last reply's thought; if it has none, take back the turn", _undo),
    Command("gate", "X", "set the Gate's threshold", _gate),
    Command("load", "FILE", "read notes from a text file", _load),
    Command("profile", "[NAME]", "show or change the profile (a name or a YAML file)", _profile),
    Command("clear", "", "begin a new conversation", _clear),
    Command("save", "FILE", "write the conversation as Markdown", _save),
    Command("exit", "", "leave", _exit),
)
