"""`/v1/responses`, stateless: the client sends the whole conversation, and nothing is stored."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from warpcortex_cli.errors import UsageError, WarpError
from warpcortex_cli.serve.chat import REASONING
from warpcortex_cli.serve.faults import fault_of
from warpcortex_cli.serve.job import Job
from warpcortex_cli.serve.messages import text_of
from warpcortex_cli.serve.reading import Choice, Delta, Usage, follow
from warpcortex_cli.serve.service import Service, Wanted
from warpcortex_cli.serve.sse import EventStream, sse
from warpcortex_cli.serve.tools import Called, Toolbox
from warpcortex_cli.serve.wire import Call, Function, Item, Message, ResponseRequest, Tool

Json = dict[str, Any]


async def responses(service: Service, body: ResponseRequest, request: Request) -> Response:
    """Replies to a conversation given as items."""
    if body.previous_response_id or body.conversation or body.background:
        raise UsageError("nothing is stored here.", "Send the whole conversation as input each time.")
    other = next((tool.type for tool in body.tools or () if tool.type != "function"), None)
    if other is not None:
        raise UsageError(f"tools of type {other[:40]!r} are not served.", "Give functions.")
    tools = [
        Tool(
            type="function",
            function=Function(name=t.name, description=t.description or "", parameters=t.parameters),
        )
        for t in body.tools or ()
    ]
    form = body.text.format if body.text is not None else None
    wanted = Wanted(1, body.max_output_tokens, format=form, tools=tools, tool_choice=body.tool_choice)
    jobs, box = await service.chat(body, messages_of(body), wanted)
    told = request.headers.get(REASONING, "on").strip().lower() != "off"
    reply = _Response(service, body, jobs, box, told)
    if body.stream:
        return await EventStream.begun(reply.stream(request), service.limits.patience)
    return JSONResponse(await reply.whole(request))


def messages_of(body: ResponseRequest) -> list[Message]:
    """The input as messages of Chat Completions. Raises UsageError if an item is of another kind."""
    found = [Message(role="system", content=body.instructions)] if body.instructions else []
    if isinstance(body.input, str):
        return [*found, Message(role="user", content=body.input)]
    for number, item in enumerate(body.input):
        if item.type != "reasoning":  # ours, sent back
            found.append(_message(item, number))
    return found


def _message(item: Item, number: int) -> Message:
    match item.type:
        case "message" if item.role in ("system", "developer", "user", "assistant"):
            return Message(role=item.role, content=text_of(item.content, number))  # type: ignore[arg-type]
        case "function_call" if item.name:
            call = Call.model_validate({"function": {"name": item.name, "arguments": item.arguments or "{}"}})
            return Message(role="assistant", tool_calls=[call])
        case "function_call_output":
            return Message(role="tool", content=text_of(item.output, number), tool_call_id=item.call_id)
    raise UsageError(f"input item {number} of type {item.type[:40]!r} cannot be read.")


class _Response:
    def __init__(self, service: Service, body: ResponseRequest, jobs: list[Job], box: Toolbox, told: bool) -> None:
        self._loop, self._jobs = service.loop, jobs
        self._choice, self._usage = Choice(box, reasoning=told), Usage()
        self._base: Json = {
            "id": f"resp_{secrets.token_hex(12)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": service.prism.name,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "metadata": {},
            "parallel_tool_calls": False,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "tool_choice": "auto",
            "tools": [],
            "store": False,
        }
        self._message = f"msg_{secrets.token_hex(12)}"
        self._thoughts = f"rs_{secrets.token_hex(12)}"

    async def _deltas(self, request: Request) -> AsyncIterator[Delta]:
        async for number, event in follow(self._loop, self._jobs, request):
            self._usage.take(number, event)
            yield self._choice.feed(event)

    async def whole(self, request: Request) -> Json:
        found = Delta()
        async for delta in self._deltas(request):
            _add(found, delta)
        return self._done(found)

    def _done(self, found: Delta) -> Json:
        output: list[Json] = []
        if found.reasoning:
            output.append(self._reasoning(found.reasoning))
        if found.content or not found.calls:
            output.append(self._said(found.content, "completed"))
        output += [_called(call) for call in found.calls]
        cut = found.finish == "length"
        usage = self._usage
        return {
            **self._base,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
            "usage": {
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.held},
                "output_tokens": usage.written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.written,
            },
        }

    def _said(self, text: str, status: str) -> Json:
        content = [_part(text)] if text or status == "completed" else []
        return {"id": self._message, "type": "message", "role": "assistant", "status": status, "content": content}

    def _reasoning(self, text: str) -> Json:
        summary = [{"type": "summary_text", "text": text}]
        return {"id": self._thoughts, "type": "reasoning", "summary": summary, "status": "completed"}

    async def stream(self, request: Request) -> AsyncIterator[bytes]:
        """The typed events of a Response, each with its number. Reasoning and calls come whole, at the end."""
        numbers = count()

        def event(name: str, **more: Any) -> bytes:
            return sse({"type": name, "sequence_number": next(numbers), **more}, name)

        found, text_at = Delta(), {"output_index": 0, "item_id": self._message, "content_index": 0}
        begun = False
        running = {**self._base, "status": "in_progress", "output": []}
        try:
            async for delta in self._deltas(request):
                if not begun:  # what is refused before has a status of its own
                    begun = True
                    yield event("response.created", response=running)
                    yield event("response.in_progress", response=running)
                    said = self._said("", "in_progress")
                    yield event("response.output_item.added", output_index=0, item=said)
                    yield event("response.content_part.added", **text_at, part=_part(""))
                _add(found, delta)
                if delta.content:
                    yield event("response.output_text.delta", **text_at, delta=delta.content, logprobs=[])
        except WarpError as error:
            if not begun:
                raise
            fault = fault_of(error)
            told = {"code": fault.code or fault.kind, "message": fault.message}
            yield event("response.failed", response={**running, "status": "failed", "error": told})
            return
        yield event("response.output_text.done", **text_at, text=found.content, logprobs=[])
        yield event("response.content_part.done", **text_at, part=_part(found.content))
        yield event("response.output_item.done", output_index=0, item=self._said(found.content, "completed"))
        output = [self._said(found.content, "completed")]
        for item in [*([self._reasoning(found.reasoning)] if found.reasoning else []), *map(_called, found.calls)]:
            place = len(output)
            output.append(item)
            yield event("response.output_item.added", output_index=place, item=item)
            if item["type"] == "function_call":
                at = {"output_index": place, "item_id": item["id"]}
                yield event("response.function_call_arguments.delta", **at, delta=item["arguments"])
                yield event("response.function_call_arguments.done", **at, arguments=item["arguments"])
            yield event("response.output_item.done", output_index=place, item=item)
        done = {**self._done(found), "output": output}
        yield event(f"response.{done['status']}", response=done)


def _add(found: Delta, delta: Delta) -> None:
    found.content += delta.content
    found.reasoning += delta.reasoning
    found.calls += delta.calls
    found.finish = delta.finish or found.finish


def _part(text: str) -> Json:
    annotations: Sequence[Json] = []
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def _called(call: Called) -> Json:
    number = secrets.token_hex(12)
    return {
        "id": f"fc_{number}",
        "call_id": f"call_{number}",
        "type": "function_call",
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }
