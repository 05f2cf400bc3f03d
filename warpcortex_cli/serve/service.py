"""What all endpoints share: the model, the thread that steps, and how a request becomes jobs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from warpcortex_cli.engine.dialogue import instructed
from warpcortex_cli.engine.grammar import Grammars, Guided
from warpcortex_cli.engine.sampling import ReplyOptions
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile, Sampling
from warpcortex_cli.serve.faults import NoModelError
from warpcortex_cli.serve.job import Ask, Job, Outbox
from warpcortex_cli.serve.limits import Limits
from warpcortex_cli.serve.loop import Loop
from warpcortex_cli.serve.messages import turns_of
from warpcortex_cli.serve.tools import Toolbox
from warpcortex_cli.serve.wire import Format, Message, NamedTool, Sampled, Tool, ToolChoice

NAME = "warpcortex"  # any client may call the model so


@dataclass(frozen=True)
class Wanted:
    """How a reply is to be written, beside its sampling."""

    choices: int = 1
    max_tokens: int | None = None
    likeliest: int | None = None
    bias: dict[str, float] | None = None
    format: Format | None = None
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = None


class Service:
    """The server without its endpoints.

    Args:
        key: what clients must send as their API key; None: nothing.
        local: whether it is reached from this machine alone. A page of another site, whose name somebody lets point
            here, then reaches nothing either.
    """

    def __init__(self, loop: Loop, key: str | None = None, *, local: bool = True) -> None:
        self.loop, self.key, self.local = loop, key, local
        self._grammars: Grammars | None = None

    @property
    def prism(self) -> Prism:
        return self.loop.prism

    @property
    def limits(self) -> Limits:
        return self.loop.limits

    @property
    def profile(self) -> Profile:
        return self.loop.profile

    def check_model(self, name: str) -> None:
        """Raises NoModelError if another model is asked for."""
        if name not in ("", NAME, self.prism.name):
            raise NoModelError(f"the model {name[:80]!r} is not served here.", f"Ask for {self.prism.name!r}.")

    async def chat(self, asked: Sampled, messages: Sequence[Message], wanted: Wanted) -> tuple[list[Job], Toolbox]:
        """The jobs of a conversation, and the functions that its replies may call.

        Raises:
            UsageError: something of it cannot be done.
        """
        self.check_model(asked.model)
        box = Toolbox(self.prism.chat, () if wanted.tool_choice == "none" else wanted.tools)
        system, turns = turns_of(messages, box)
        if told := box.told():
            system = told if system is None else f"{system}\n\n{told}"
        profile = instructed(self._profile(asked, wanted), system)
        tools = box.tools if box.in_template else ()
        ask = Ask(profile, turns, tools=tools, sent_back=box.sent_back if box else str.strip)
        return await self._jobs([ask] * wanted.choices, asked, wanted, box), box

    async def text(self, asked: Sampled, prompts: Sequence[Sequence[int]], wanted: Wanted) -> list[Job]:
        """The jobs of bare texts, `choices` of each. Raises as `chat` does."""
        self.check_model(asked.model)
        profile = self._profile(asked, wanted)
        asks = [Ask(profile, ids=tuple(ids)) for ids in prompts for _ in range(wanted.choices)]
        return await self._jobs(asks, asked, wanted, Toolbox(self.prism.chat, ()))

    async def _jobs(self, asks: list[Ask], asked: Sampled, wanted: Wanted, box: Toolbox) -> list[Job]:
        if len(asks) > self.limits.choices:
            raise UsageError(f"{len(asks)} choices are too many; {self.limits.choices} are the most.")
        outbox = Outbox(self.limits.outbox)
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        bias = {_token(name, self.prism): value for name, value in (wanted.bias or {}).items()}
        jobs: list[Job] = []
        for number, ask in enumerate(asks):
            grammar = await self._grammar(wanted, box)
            options = ReplyOptions((seed + number) % (1 << 63), grammar, bias, wanted.likeliest)
            first = jobs[number - number % wanted.choices] if number % wanted.choices else None
            jobs.append(Job(replace(ask, options=options), outbox, number, first))
        return jobs

    def _profile(self, asked: Sampled, wanted: Wanted) -> Profile:
        names = Sampling.model_fields
        given = {name: value for name in names if (value := getattr(asked, name, None)) is not None}
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        most = None if wanted.max_tokens is None else min(wanted.max_tokens, self.limits.tokens)
        return self.profile.sampled(given, stop, most)

    async def _grammar(self, wanted: Wanted, box: Toolbox) -> Guided | None:
        """What the reply has to keep to: a schema, or a call of a function."""
        choice, form = wanted.tool_choice, wanted.format
        if box and (choice == "required" or isinstance(choice, NamedTool)):
            name = None
            if isinstance(choice, NamedTool):
                name = choice.function.name if choice.function is not None else choice.name
            return await self._kept_to(lambda grammars: grammars.lark(box.grammar(name)))
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return await self._kept_to(Grammars.any_json)
        schema: dict[str, Any] | None = form.schema_ if form.json_schema is None else form.json_schema.schema_
        if schema is None:
            raise UsageError("response_format asks for json_schema and gives none.")
        return await self._kept_to(lambda grammars: grammars.schema(schema))

    async def _kept_to(self, make: Callable[[Grammars], Guided]) -> Guided:
        """A grammar. Making a large one takes a while, so it does not happen where others are waiting."""
        if self._grammars is None:
            self._grammars = await self.loop.apart(lambda: Grammars(self.prism))
        return await asyncio.to_thread(make, self._grammars)


def _token(name: str, prism: Prism) -> int:
    if not name.isdecimal() or int(name) >= prism.vocab_size:
        raise UsageError(f"logit_bias names the token {name[:20]!r}, which this model does not have.")
    return int(name)
