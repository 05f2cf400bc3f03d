"""`/v1/chat/completions`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import RiverToken
from warpcortex_cli.serve.job import Job
from warpcortex_cli.serve.reading import Choice, Delta, Usage, follow
from warpcortex_cli.serve.service import Service, Wanted
from warpcortex_cli.serve.sse import DONE, EventStream, sse
from warpcortex_cli.serve.tools import Called, Toolbox
from warpcortex_cli.serve.wire import ChatRequest

REASONING = "x-warpcortex-reasoning"  # a header; off: thinking and Streams are not told


def wanted_of(body: ChatRequest) -> Wanted:
    if body.top_logprobs is not None and not body.logprobs:
        raise UsageError("top_logprobs needs logprobs to be true.")
    return Wanted(
        choices=body.n,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        likeliest=(body.top_logprobs or 0) if body.logprobs else None,
        bias=body.logit_bias,
        format=body.response_format,
        tools=body.tools or (),
        tool_choice=body.tool_choice,
    )


async def chat_completions(service: Service, body: ChatRequest, request: Request) -> Response:
    """Replies to a conversation, whole or as a stream of chunks."""
    jobs, box = await service.chat(body, body.messages, wanted_of(body))
    told = request.headers.get(REASONING, "on").strip().lower() != "off"
    reply = _Reply(service, jobs, box, told)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await EventStream.begun(reply.chunks(request, usage), service.limits.patience)
    return JSONResponse(await reply.whole(request))


class _Reply:
    """All choices of one request, as OpenAI's API writes them."""

    def __init__(self, service: Service, jobs: list[Job], box: Toolbox, told: bool) -> None:
        self._loop, self._jobs = service.loop, jobs
        self._choices = [Choice(box, reasoning=told) for _ in jobs]
        self._usage = Usage()
        self._logprobs = jobs[0].ask.options.likeliest is not None
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": service.prism.name,
        }

    async def _deltas(self, request: Request) -> AsyncIterator[tuple[int, Delta]]:
        async for number, event in follow(self._loop, self._jobs, request):
            self._usage.take(number, event)
            yield number, self._choices[number].feed(event)

    async def whole(self, request: Request) -> dict[str, Any]:
        found = [Delta() for _ in self._jobs]
        async for number, delta in self._deltas(request):
            one = found[number]
            one.content += delta.content
            one.reasoning += delta.reasoning
            one.calls += delta.calls
            one.tokens += delta.tokens
            one.finish = delta.finish or one.finish
        choices = []
        for number, one in enumerate(found):
            message: dict[str, Any] = {"role": "assistant", "content": one.content or (None if one.calls else "")}
            if one.reasoning:
                message["reasoning_content"] = one.reasoning
            if one.calls:
                message["tool_calls"] = [_call(call) for call in one.calls]
            choices.append(
                {"index": number, "message": message, "logprobs": self._told(one), "finish_reason": one.finish}
            )
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage_of(self._usage)}

    async def chunks(self, request: Request, with_usage: bool) -> AsyncIterator[bytes]:
        begun: set[int] = set()
        calls = [0] * len(self._jobs)
        usage = {"usage": None} if with_usage else {}
        async for number, delta in self._deltas(request):
            if number not in begun:
                begun.add(number)
                yield self._chunk(number, {"role": "assistant", "content": ""}, None, None, usage)
            if not delta:
                continue
            new: dict[str, Any] = {"content": delta.content} if delta.content else {}
            if delta.reasoning:
                new["reasoning_content"] = delta.reasoning
            if delta.calls:
                new["tool_calls"] = [{"index": calls[number] + i, **_call(c)} for i, c in enumerate(delta.calls)]
                calls[number] += len(delta.calls)
            if new or delta.tokens:
                yield self._chunk(number, new, self._told(delta), None, usage)
            if delta.finish is not None:
                yield self._chunk(number, {}, None, delta.finish, usage)
        if with_usage:
            last = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(self._usage)}
            yield sse(last)
        yield DONE

    def _chunk(
        self, number: int, delta: dict[str, Any], logprobs: Any, finish: str | None, usage: dict[str, Any]
    ) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return sse({**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage})

    def _told(self, delta: Delta) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": [logprob(event) for event in delta.tokens], "refusal": None}


def logprob(event: RiverToken) -> dict[str, Any]:
    """A token with its log-probability, and the likeliest ones there."""
    likeliest = [_scored(text, score) for _, text, score in event.likeliest]
    return {**_scored(event.text, event.log_probability), "top_logprobs": likeliest}


def _scored(text: str, score: float) -> dict[str, Any]:
    whole = "\ufffd" not in text  # part of a character has no text of its own
    return {"token": text, "logprob": max(score, -9999.0), "bytes": list(text.encode()) if whole else None}


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.written,
        "total_tokens": usage.prompt + usage.written,
        "prompt_tokens_details": {"cached_tokens": usage.held},
        "stream_tokens": usage.streams,
    }


def _call(call: Called) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
