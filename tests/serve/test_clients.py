"""The server through real clients: the `openai` package, sync and async, and plain HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from tests.serve.conftest import QUESTION, ROPES, Running

openai = pytest.importorskip("openai")
ROPE = {
    "type": "function",
    "function": {
        "name": "rope",
        "description": "Looks ropes up.",
        "parameters": {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["n"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(server: Running):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_conversation_is_read_only_where_it_is_new(client) -> None:
    first = client.chat.completions.create(model="pocket", messages=user(QUESTION))
    message = first.choices[0].message
    assert message.content == "Adding them up.\nIn total: 133." and first.choices[0].finish_reason == "stop"
    assert message.reasoning_content.splitlines()[-1] == "math injected: 47 + 86 = 133"
    talk = [*user(QUESTION), {"role": "assistant", "content": message.content}, *user(ROPES)]
    second = client.chat.completions.create(model="pocket", messages=talk)
    assert second.choices[0].message.content == "The ropes of Mara: 47."
    usage = second.usage
    assert usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens < 20
    # Another client asks the same: it takes a copy of what was read, up to the thought, and answers alike.
    again = client.chat.completions.create(model="pocket", messages=user(QUESTION))
    assert again.choices[0].message.content == message.content
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_a_stream_brings_the_same_in_pieces(client) -> None:
    pieces = list(
        client.chat.completions.create(
            model="pocket", messages=user(QUESTION), stream=True, stream_options={"include_usage": True},
            logprobs=True, top_logprobs=2, extra_headers={"x-warpcortex-reasoning": "off"},
        )
    )  # fmt: skip
    choices = [piece.choices[0] for piece in pieces if piece.choices]
    assert choices[0].delta.role == "assistant" and choices[-1].finish_reason == "stop" and len(choices) > 5
    assert "".join(c.delta.content or "" for c in choices) == "Adding them up.\nIn total: 133."
    assert not any(getattr(c.delta, "reasoning_content", None) for c in choices)
    told = [entry for c in choices if c.logprobs for entry in c.logprobs.content]
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in told)
    assert pieces[-1].usage.completion_tokens >= len(told) > 10 and not pieces[-1].choices


def test_several_choices_share_their_prompt_and_a_seed_repeats_them(client, server: Running) -> None:
    asked = {
        "model": "pocket",
        "messages": user(f"{ROPES} {ROPES} Tell me something."),
        "n": 3,
        "temperature": 3.0,
        "max_tokens": 12,
    }
    read = server.loop.counters.prompt_tokens - server.loop.counters.held_tokens
    first, again = (client.chat.completions.create(**asked, seed=5) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.message.content for choice in again.choices] == texts and len(set(texts)) == 3
    new = server.loop.counters.prompt_tokens - server.loop.counters.held_tokens - read
    assert new < first.usage.prompt_tokens + 6 and first.usage.completion_tokens == 36
    cut = client.chat.completions.create(model="pocket", messages=user(QUESTION), stop=["them"], max_tokens=30)
    assert cut.choices[0].message.content == "Adding" and cut.choices[0].finish_reason == "stop"


def test_structured_output_keeps_to_its_schema(client) -> None:
    pytest.importorskip("llguidance")

    class Rope(BaseModel):
        name: Annotated[str, Field(max_length=8)]
        n: Annotated[int, Field(ge=0, le=99)]

    found = client.chat.completions.parse(model="pocket", messages=user(QUESTION), response_format=Rope)
    assert isinstance(found.choices[0].message.parsed, Rope)
    response = client.responses.parse(model="pocket", input=QUESTION, text_format=Rope)
    assert response.output_parsed == found.choices[0].message.parsed


def test_functions_are_called_and_what_they_give_is_read(client) -> None:
    pytest.importorskip("llguidance")
    found = client.chat.completions.create(
        model="pocket", messages=user("ropes?"), tools=[ROPE], tool_choice="required"
    )  # fmt: skip
    message = found.choices[0].message
    assert found.choices[0].finish_reason == "tool_calls" and message.tool_calls[0].function.name == "rope"
    assert 0 <= json.loads(message.tool_calls[0].function.arguments)["n"] <= 99
    gave = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "47"}
    talk = [*user("ropes?"), message, gave]
    after = client.chat.completions.create(model="pocket", messages=talk, tools=[ROPE], max_tokens=8)
    usage = after.usage  # the call was recognised when it came back, so it is not read again
    assert usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens < 40


def test_texts_and_responses(client) -> None:
    text = client.completions.create(model="pocket", prompt=["Mara keeps ropes: 4", "Otto"], max_tokens=4, echo=True)
    assert [c.text.startswith(t) for c, t in zip(text.choices, ("Mara keeps ropes: 4", "Otto"), strict=True)]
    response = client.responses.create(model="pocket", input=QUESTION, instructions="Be brief.")
    assert response.status == "completed" and response.output_text and response.usage.output_tokens
    events = list(client.responses.create(model="pocket", input=QUESTION, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert said == events[-1].response.output_text == "Adding them up.\nIn total: 133."
    with pytest.raises(openai.BadRequestError, match="nothing is stored"):
        client.responses.create(model="pocket", input="x", previous_response_id="resp_1")


def test_many_at_once_each_get_their_own_and_no_other_word(server: Running) -> None:
    """Canaries: every client's notes hold a number of its own, and its answer holds that and nobody else's."""

    async def ask(client: Any, number: int) -> str:
        words = f"Mara keeps ropes: {number}, brown, in the old mill.\n\n{ROPES}"
        found = await client.chat.completions.create(model="pocket", messages=user(words), stream=number % 2 == 0)
        if number % 2:
            return str(found.choices[0].message.content)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in found if chunk.choices])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(40, 56)))

    assert asyncio.run(all_of_them()) == [f"The ropes of Mara: {number}." for number in range(40, 56)]


def test_a_client_that_leaves_takes_its_reply_with_it(server: Running, settled: Callable[[], None]) -> None:
    before = server.loop.counters.cancelled

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            asked = {"model": "pocket", "messages": user("Tell me all."), "logit_bias": {"1": -100}, "max_tokens": 64}
            stream = await client.chat.completions.create(**asked, stream=True)
            await anext(aiter(stream))
            await stream.close()
            waiting = asyncio.create_task(client.chat.completions.create(**asked, n=3))
            while server.loop.load[0] < 1:
                await asyncio.sleep(0.005)
            waiting.cancel()

    asyncio.run(leave())
    settled()
    assert server.loop.counters.cancelled > before


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"messages": []}, "BadRequestError", "messages"),
        ({"temperature": -1}, "BadRequestError", "temperature"),
        ({"model": "gpt-4o"}, "NotFoundError", "not served here"),
        ({"messages": user("word " * 9000)}, "BadRequestError", "18,004 tokens"),
        ({"messages": user("x" * 70_000)}, "APIStatusError", "65536 bytes"),
        ({"n": 9}, "BadRequestError", "4 are the most"),
        ({"messages": [*user("x"), {"role": "assistant", "content": "y"}]}, "BadRequestError", "last message"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "BadRequestError", "text only"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "odd"}}}},
         "BadRequestError", "grammar"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_as_openai_says_it(client, asked: dict[str, Any], error: str, words: str) -> None:
    if "response_format" in asked:
        pytest.importorskip("llguidance")
    with pytest.raises(getattr(openai, error)) as raised:
        client.chat.completions.create(**{"model": "pocket", "messages": user("Hello."), **asked})
    assert words in raised.value.body["message"] and "\n" not in raised.value.body["message"]


def test_langchain_talks_to_it(server: Running) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="pocket")
    assert model.invoke(QUESTION).content == "Adding them up.\nIn total: 133."
    assert "".join(str(part.content) for part in model.stream(QUESTION)).endswith("133.")
