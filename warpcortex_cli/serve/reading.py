"""The events of a reply as its reader gets to see them: content, reasoning, calls, probabilities, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

from warpcortex_cli.events import Event, RiverFinished, RiverStarted, RiverText, RiverToken, StreamEnded
from warpcortex_cli.serve.job import Failed, Job, Over
from warpcortex_cli.serve.loop import Loop
from warpcortex_cli.serve.tools import Called, CallReader, Toolbox
from warpcortex_cli.ui.answer import Answer
from warpcortex_cli.ui.telling import Telling

_FINISHED = {"length": "length"}  # what else ends a reply is a stop


class GoneError(Exception):
    """The client has hung up."""


@dataclass
class Delta:
    """What is new in a choice."""

    content: str = ""
    reasoning: str = ""
    calls: list[Called] = field(default_factory=list)
    tokens: list[RiverToken] = field(default_factory=list)
    finish: str | None = None

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls or self.finish is not None)


@dataclass
class Usage:
    """Tokens of a request. The prompt of several choices counts once."""

    prompt: int = 0
    held: int = 0
    written: int = 0
    streams: int = 0

    def take(self, choice: int, event: Event) -> None:
        match event:
            case RiverStarted() if choice == 0:
                self.prompt, self.held = event.prompt_tokens + event.held, event.held
            case RiverFinished():
                self.written += event.tokens
            case StreamEnded():
                self.streams += event.tokens


class Choice:
    """One reply of a request.

    Args:
        reasoning: whether thinking and what Streams do is told.
        raw: whether content is what the River wrote, to the last space, requests included.
    """

    def __init__(self, box: Toolbox, *, reasoning: bool, raw: bool = False) -> None:
        self._answer = Answer()
        self._telling = Telling() if reasoning else None
        self._calls = CallReader(box) if box else None
        self._raw = raw
        self._tokens: list[RiverToken] = []
        self._called = 0

    def feed(self, event: Event) -> Delta:
        """What an event adds."""
        delta = Delta()
        if self._telling is not None:
            delta.reasoning = self._telling.feed(event)
        match event:
            case RiverText():
                delta.content = event.text if self._raw else self._answer.feed(event)
                if self._calls is not None:
                    delta.content = self._calls.feed(delta.content)
            case RiverToken():
                self._tokens.append(event)
            case RiverFinished():
                delta.content = "" if self._raw else self._answer.finish()
                if self._calls is not None:
                    delta.content = self._calls.feed(delta.content) + self._calls.finish()
                delta.finish = _FINISHED.get(event.reason, "stop")
        if self._calls is not None:
            delta.calls, self._called = self._calls.calls[self._called :], len(self._calls.calls)
            if delta.finish == "stop" and self._called:
                delta.finish = "tool_calls"
        if delta:
            delta.tokens, self._tokens = self._tokens, []
        return delta


async def follow(loop: Loop, jobs: Sequence[Job], request: Request) -> AsyncIterator[tuple[int, Event]]:
    """Hands jobs in and yields their events, each with its choice. If the client hangs up, the replies end.

    Raises:
        BusyError: too many requests wait.
        GoneError: the client has hung up.
        WarpError: a reply has failed.
    """
    loop.submit(list(jobs))
    outbox, left = jobs[0].outbox, len(jobs)
    gone = asyncio.create_task(_hung_up(request))
    try:
        while left:
            taking = asyncio.create_task(outbox.take())
            await asyncio.wait({taking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                raise GoneError
            for choice, item in taking.result():
                match item:
                    case Over():
                        left -= 1
                    case Failed():
                        raise item.error
                    case _:
                        yield choice, item
    finally:
        gone.cancel()
        for job in jobs:
            loop.cancel(job)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
