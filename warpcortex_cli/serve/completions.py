"""`/v1/completions`: bare texts are gone on with, without the model's chat template."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import RiverToken
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.serve.chat import usage_of
from warpcortex_cli.serve.job import Job
from warpcortex_cli.serve.reading import Choice, Delta, Usage, follow
from warpcortex_cli.serve.service import Service, Wanted
from warpcortex_cli.serve.sse import DONE, EventStream, sse
from warpcortex_cli.serve.tools import Toolbox
from warpcortex_cli.serve.wire import CompletionRequest


async def completions(service: Service, body: CompletionRequest, request: Request) -> Response:
    """Goes on with one text or several."""
    service.check_model(body.model)
    service.loop.check_letters(sum(len(one) for one in _texts(body.prompt)))
    prompts = await service.loop.apart(lambda: prompts_of(body.prompt, service.prism))
    wanted = Wanted(body.n, body.max_tokens, body.logprobs, body.logit_bias)
    jobs = await service.text(body, prompts, wanted)
    texts = await service.loop.apart(lambda: [service.prism.decode(ids) if body.echo else "" for ids in prompts])
    before = [text for text in texts for _ in range(body.n)]
    reply = _Texts(service, jobs, before)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await EventStream.begun(reply.chunks(request, usage), service.limits.patience)
    return JSONResponse(await reply.whole(request))


def prompts_of(prompt: str | Sequence[Any], prism: Prism) -> list[list[int]]:
    """The tokens of each prompt. In texts, names of control tokens are meant: whoever writes them knows the template.

    Raises:
        UsageError: a prompt is empty, or holds a token that there is not.
    """
    several: Sequence[Any] = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    found = [prism.encode(one, special=True) if isinstance(one, str) else list(one) for one in several]
    if not all(found):
        raise UsageError("a prompt is empty.")
    if any(not 0 <= token < prism.vocab_size for ids in found for token in ids):
        raise UsageError("a prompt holds a token that this model does not have.")
    return found


def _texts(prompt: str | Sequence[Any]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [one for one in prompt if isinstance(one, str)]


class _Texts:
    def __init__(self, service: Service, jobs: list[Job], before: list[str]) -> None:
        self._loop, self._jobs, self._before = service.loop, jobs, before
        box = Toolbox(service.prism.chat, ())
        self._choices = [Choice(box, reasoning=False, raw=True) for _ in jobs]
        self._usage = Usage()
        self._logprobs = jobs[0].ask.options.likeliest is not None
        number, now = secrets.token_hex(12), int(time.time())
        self._head = {"id": f"cmpl-{number}", "object": "text_completion", "created": now, "model": service.prism.name}

    async def _deltas(self, request: Request) -> AsyncIterator[tuple[int, Delta]]:
        async for number, event in follow(self._loop, self._jobs, request):
            self._usage.take(number, event)
            yield number, self._choices[number].feed(event)

    async def whole(self, request: Request) -> dict[str, Any]:
        found = [Delta(content=text) for text in self._before]
        async for number, delta in self._deltas(request):
            found[number].content += delta.content
            found[number].tokens += delta.tokens
            found[number].finish = delta.finish or found[number].finish
        choices = [self._choice(number, one) for number, one in enumerate(found)]
        return {**self._head, "choices": choices, "usage": usage_of(self._usage)}

    async def chunks(self, request: Request, with_usage: bool) -> AsyncIterator[bytes]:
        usage = {"usage": None} if with_usage else {}
        for number, text in enumerate(self._before):
            if text:
                yield sse({**self._head, "choices": [self._choice(number, Delta(content=text))], **usage})
        async for number, delta in self._deltas(request):
            if delta:
                yield sse({**self._head, "choices": [self._choice(number, delta)], **usage})
        if with_usage:
            yield sse({**self._head, "choices": [], "usage": usage_of(self._usage)})
        yield DONE

    def _choice(self, number: int, delta: Delta) -> dict[str, Any]:
        told = _logprobs(delta.tokens) if self._logprobs else None
        return {"index": number, "text": delta.content, "logprobs": told, "finish_reason": delta.finish}


def _logprobs(tokens: Sequence[RiverToken]) -> dict[str, Any]:
    return {
        "tokens": [event.text for event in tokens],
        "token_logprobs": [max(event.log_probability, -9999.0) for event in tokens],
        "top_logprobs": [{text: score for _, text, score in event.likeliest} for event in tokens],
    }
