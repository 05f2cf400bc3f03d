"""A client's messages as turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from warpcortex_cli.engine.contents import Said
from warpcortex_cli.errors import UsageError
from warpcortex_cli.serve.tools import Toolbox, called
from warpcortex_cli.serve.wire import Message, Part

_BETWEEN = "\n\n"


def turns_of(messages: Sequence[Message], box: Toolbox) -> tuple[str | None, tuple[Said, ...]]:
    """The system prompt, or None, and the turns. Neighbours of the same role become one turn, as templates ask for.

    Raises:
        UsageError: something cannot be read, or there is nothing to answer.
    """
    system: str | None = None
    turns: list[Said] = []
    for number, message in enumerate(messages):
        text = text_of(message.content, number)
        match message.role:
            case "system" | "developer" if not turns:
                system = text if system is None else f"{system}{_BETWEEN}{text}"
                continue
            case "assistant":
                said = Said("assistant", box.written(text, called(message.tool_calls or ())))
            case "tool" | "function" if box.in_template:
                said = Said("tool", text)
            case "tool" | "function":
                said = Said("user", f"The function gave:\n{text}")
            case _:
                said = Said("user", text)
        if turns and turns[-1].role == said.role != "tool":
            said = Said(said.role, f"{turns.pop().text}{_BETWEEN}{said.text}")
        turns.append(said)
    if not turns or turns[-1].role == "assistant":
        raise UsageError("the last message must be the user's, or what a tool gave.")
    if turns[-1].role == "user" and not turns[-1].text.strip():
        raise UsageError("the last message of the user is empty.")
    return system, tuple(turns)


def text_of(content: str | Sequence[Part] | None, number: int) -> str:
    """The text of a message. Raises UsageError if there is anything else in it."""
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in ("text", "input_text", "output_text", "refusal"):
            raise UsageError(f"message {number} holds a part of type {part.type!r}; this model reads text only.")
    return "\n".join(part.text or part.refusal for part in content)
