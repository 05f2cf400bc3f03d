"""`/v1/warpcortex/events`: a reply as the engine's own typed events, and then as Chat Completions would give it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from warpcortex_cli.serve.chat import usage_of, wanted_of
from warpcortex_cli.serve.reading import Choice, Usage, follow
from warpcortex_cli.serve.service import Service
from warpcortex_cli.serve.sse import EventStream, sse
from warpcortex_cli.serve.wire import ChatRequest


async def typed_events(service: Service, body: ChatRequest, request: Request) -> Response:
    """One server-sent event for each event of the reply, with its choice; then `reply` for each choice."""
    jobs, box = await service.chat(body, body.messages, wanted_of(body))
    choices, texts, usage = [Choice(box, reasoning=False) for _ in jobs], [""] * len(jobs), Usage()

    async def told() -> AsyncIterator[bytes]:
        async for number, event in follow(service.loop, jobs, request):
            usage.take(number, event)
            texts[number] += choices[number].feed(event).content
            yield sse({"choice": number, **event.to_json()}, event.name)
        for number, text in enumerate(texts):
            yield sse({"choice": number, "event": "reply", "content": text, "usage": usage_of(usage)}, "reply")

    return await EventStream.begun(told(), service.limits.patience)
