"""The input line of `chat`: history, multi-line paste, completion of slash commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from warpcortex_cli.ui.commands import COMMANDS, Command
from warpcortex_cli.ui.safe import one_line


class CommandCompleter(Completer):
    """Completes command names, then their argument: a choice, a file, or one of `names()`."""

    def __init__(self, commands: Sequence[Command], names: Callable[[], Iterable[str]]) -> None:
        self._commands = commands
        self._names = names
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        head, space, argument = text.partition(" ")
        if not space:
            for command in self._commands:
                if command.name.startswith(head[1:].lower()):
                    yield Completion(f"/{command.name}", -len(head), display_meta=command.help)
            return
        for command in self._commands:
            if command.name == head[1:].lower():
                yield from self._argument(command, argument, complete_event)

    def _argument(self, command: Command, text: str, event: CompleteEvent) -> Iterable[Completion]:
        if command.argument == "FILE":
            yield from self._paths.get_completions(Document(text), event)
            return
        choices = command.argument.split("|") if "|" in command.argument else []
        if command.argument == "[NAME]":
            choices = list(self._names())
        for choice in choices:
            if choice.startswith(text):
                yield Completion(choice, -len(text))


class StateHistory(FileHistory):
    """History in a file that only its user can read. A full or read-only disk loses the history, not the chat."""

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


def open_history() -> History:
    """The history in this system's state folder (XDG_STATE_HOME on Linux), or else in memory."""
    try:
        folder = user_state_path("warpcortex", appauthor=False)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "history"
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return StateHistory(str(path))


class Prompt:
    """Reads messages. Enter sends, Alt-Enter starts a new line; a paste keeps its line breaks until Enter.

    Args:
        names: profile names, for completion.
        label: shown in front of the line.
    """

    def __init__(self, names: Callable[[], Iterable[str]], label: str = "you") -> None:
        # No CPR: the terminal's answer would mix with what is typed ahead while a reply runs.
        # The prompt goes to the terminal even if stdout is a file.
        output = create_output(always_prefer_tty=True)
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False
        self._message = FormattedText([("class:prompt", f"{one_line(label, 20)}> ")])
        self._session: PromptSession[str] = PromptSession(
            history=open_history(),
            completer=CommandCompleter(COMMANDS, names),
            complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
            multiline=True,
            prompt_continuation="",
            key_bindings=_keys(),
            output=output,
            style=Style.from_dict({"prompt": "bold"}),
            reserve_space_for_menu=6,
        )

    def read(self) -> str:
        """The next message, which may have several lines.

        Raises:
            EOFError: Ctrl-D on an empty line.
            KeyboardInterrupt: Ctrl-C on an empty line; with text it clears the line instead.
        """
        return self._session.prompt(self._message)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys
