"""The client's functions: how the model is shown them, how it calls them, and how its calls are read.

A model whose template takes tools is shown them there, and writes calls between the template's tags. Any other model is
told in its system prompt, and writes a call as bare JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from warpcortex_cli.engine.grammar import COMPACT
from warpcortex_cli.engine.text import begun
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.chat_format import ChatFormat
from warpcortex_cli.serve.wire import Call, Tool

_TOLD = (
    "You can call functions. To call one, answer with nothing but a JSON object with its name and its arguments, such "
    'as {{"name": "...", "arguments": {{...}}}}. What it gives comes back to you. The functions are:\n{tools}'
)


@dataclass(frozen=True)
class Called:
    """A call that the model wrote. `arguments`: JSON."""

    name: str
    arguments: str


class Toolbox:
    """The functions of one request.

    Args:
        chat: the model's format.
        tools: empty: there are none.
    """

    def __init__(self, chat: ChatFormat, tools: Sequence[Tool]) -> None:
        self.tools = [tool.model_dump(exclude_none=True) for tool in tools]
        self._names = {tool.function.name for tool in tools}
        self._parameters = {tool.function.name: tool.function.parameters or {"type": "object"} for tool in tools}
        self.in_template = chat.takes_tools
        self.opening, self.closing = chat.calls

    def __bool__(self) -> bool:
        return bool(self.tools)

    def told(self) -> str:
        """What a system prompt says of them, where the template does not."""
        if not self.tools or self.in_template:
            return ""
        return _TOLD.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in self.tools))

    def grammar(self, name: str | None) -> str:
        """A Lark grammar of one call: of that function, or of any.

        Raises:
            UsageError: there is no such function.
        """
        if name is not None and name not in self._names:
            raise UsageError(f"tool_choice names {name!r}, which is none of the tools.")
        names = [name] if name is not None else sorted(self._names)
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": n}, "arguments": self._parameters[n]},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for n in names
        ]
        schema = json.dumps({**(calls[0] if len(calls) == 1 else {"anyOf": calls}), "x-guidance": COMPACT})
        if not self.opening:
            return f"start: %json {schema}"
        return f'start: "{self.opening}\\n" %json {schema} "\\n{self.closing}"'

    def written(self, content: str, calls: Sequence[Called]) -> str:
        """A reply with calls as the model writes it, always in the same form."""
        parts = [content.strip()] if content.strip() else []
        for call in calls:
            body = json.dumps({"name": call.name, "arguments": _parsed(call.arguments)}, ensure_ascii=False)
            parts.append(f"{self.opening}\n{body}\n{self.closing}" if self.opening else body)
        return "\n".join(parts)

    def sent_back(self, answer: str) -> str:
        """An answer as a client sends it back, which has seen its calls as calls."""
        reader = CallReader(self)
        content = reader.feed(answer) + reader.finish()
        return self.written(content, reader.calls) if reader.calls else answer.strip()

    def read(self, text: str) -> Called | None:
        """A call out of its JSON; None if it is none, or calls nothing that there is."""
        found = _parsed(text)
        if not isinstance(found, dict) or found.get("name") not in self._names:
            return None
        arguments = found.get("arguments", found.get("parameters", {}))
        return Called(found["name"], arguments if isinstance(arguments, str) else json.dumps(arguments))


class CallReader:
    """Takes calls out of a reply while it is written.

    Attributes:
        calls: those found so far.
    """

    def __init__(self, box: Toolbox) -> None:
        self._box = box
        self._held = ""  # what may be part of a call
        self.calls: list[Called] = []

    def feed(self, text: str) -> str:
        """The part of new text that is certainly content."""
        self._held += text
        return "".join(self._settled())

    def _settled(self) -> Iterator[str]:
        opening, closing = self._box.opening, self._box.closing
        if not opening:  # bare JSON is the whole reply, or none of it
            if self._held.lstrip()[:1] not in ("", "{"):
                yield self._all()
            return
        while self._held:
            before, found, after = self._held.partition(opening)
            if not found:
                safe = len(self._held[: len(self._held) - begun(self._held, opening)].rstrip())
                yield self._held[:safe]
                self._held = self._held[safe:]
                return
            inner, closed, rest = after.partition(closing)
            if not closed:
                yield before.rstrip()
                self._held = opening + after
                return
            yield before.rstrip()
            self._held = rest.lstrip()
            call = self._box.read(inner)
            if call is None:
                yield f"{opening}{inner}{closing}"
            else:
                self.calls.append(call)

    def finish(self) -> str:
        """What is left at the end of the reply: content, unless it is a call."""
        text = self._all()
        if self.calls and not text.strip():
            return ""
        body = text.strip().removeprefix(self._box.opening).strip() if self._box.opening else text
        call = self._box.read(body) if text.strip() else None
        if call is None:
            return text
        self.calls.append(call)
        return ""

    def _all(self) -> str:
        text, self._held = self._held, ""
        return text


def called(calls: Sequence[Call]) -> list[Called]:
    """Calls as clients send them back."""
    return [Called(call.function.name, call.function.arguments or "{}") for call in calls]


def _parsed(text: str) -> Any:
    """JSON; the text itself if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text
