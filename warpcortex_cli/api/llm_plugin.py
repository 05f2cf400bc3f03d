"""The plugin of Simon Willison's `llm`: `llm -m warpcortex:smollm2 "..."`, an entry point of this package.

Thinking and what Streams do appear as reasoning, which `llm` shows on stderr and `-R` hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import llm
from llm.parts import StreamEvent
from pydantic import Field

from warpcortex_cli import Cortex
from warpcortex_cli.events import RiverFinished, RiverStarted, RiverText
from warpcortex_cli.prism import source
from warpcortex_cli.ui.answer import Answer
from warpcortex_cli.ui.telling import Telling


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """pocket, which is in the package, and smollm2 where its package is installed. `-o model` takes any other."""
    names = ["pocket"] + ([source.SMOLLM2] if source.package_file() is not None else [])
    for name in names:
        register(Warpcortex(name))


class Warpcortex(llm.Model):
    """One model with its profile. It is loaded with the first prompt and kept."""

    can_stream = True
    supports_schema = True

    class Options(llm.Options):
        model: str | None = Field(None, description="Another model, as `warpcortex ask -m` takes it")
        profile: str | None = Field(None, description="A profile, as `warpcortex ask -p` takes it")
        streams: bool = Field(True, description="Whether requests in the text start Streams")
        max_tokens: int | None = Field(None, description="Longest reply, in tokens", ge=1)
        temperature: float | None = Field(None, description="0 is greedy", ge=0, le=10)
        top_p: float | None = Field(None, description="Nucleus sampling", gt=0, le=1)
        seed: int | None = Field(None, description="The same seed gives the same reply", ge=0)

    def __init__(self, name: str) -> None:
        self.model_id = f"warpcortex:{name}"
        self._name = name
        self._opened: dict[tuple[str, str | None, bool], Cortex] = {}

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[Any]:
        """Replies to the whole conversation; what is held of it already is not read again."""
        asked = prompt.options
        cortex = self._cortex(asked.model or self._name, asked.profile, asked.streams)
        events = cortex.chat(
            _messages(prompt), schema=prompt.schema, max_tokens=asked.max_tokens,
            temperature=asked.temperature, top_p=asked.top_p, seed=asked.seed,
        )  # fmt: skip
        answer, telling = Answer(), Telling()
        for event in events:
            if told := telling.feed(event):
                yield StreamEvent(type="reasoning", chunk=told)
            match event:
                case RiverText():
                    if piece := answer.feed(event):
                        yield piece
                case RiverStarted():
                    response.set_usage(input=event.prompt_tokens)
                case RiverFinished():
                    response.set_usage(input=response.input_tokens, output=event.tokens)
                    response.response_json = {"finish_reason": event.reason, "seconds": event.seconds}
        yield answer.finish()

    def _cortex(self, model: str, profile: str | None, streams: bool) -> Cortex:
        key = (model, profile, streams)
        if key not in self._opened:
            self._opened[key] = Cortex(model, profile, streams=streams)
        return self._opened[key]


def _messages(prompt: Any) -> list[dict[str, str]]:
    """The conversation so far and the new words, as text."""
    found = []
    for message in prompt.messages:
        text = "".join(part.text for part in message.parts if type(part).__name__ == "TextPart")
        found.append({"role": message.role, "content": text})
    return found
