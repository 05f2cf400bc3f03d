"""What clients send, as OpenAI's API has it, checked and bounded. Fields that nobody here needs are passed over."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=1 << 22)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Stop | Annotated[list[Stop], Field(max_length=16)] | None
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Part(_Wire):
    """One part of a message's content. Only text can be read."""

    type: str
    text: Text = ""
    refusal: Text = ""


class Function(_Wire):
    """A function of the client's, or a call of one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: Annotated[str, Field(max_length=16_384)] = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Wire):
    type: Literal["function"]
    function: Function


class Called(_Wire):
    name: Annotated[str, Field(max_length=64)]
    arguments: Text = "{}"


class Call(_Wire):
    id: str = ""
    function: Called


class Message(_Wire):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Annotated[list[Part], Field(max_length=4096)] | None = None
    tool_calls: Annotated[list[Call], Field(max_length=128)] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class NamedFunction(_Wire):
    name: str


class NamedTool(_Wire):
    """`tool_choice` as Chat Completions have it, or as Responses do."""

    type: Literal["function"]
    function: NamedFunction | None = None
    name: str | None = None


ToolChoice = Literal["none", "auto", "required"] | NamedTool | None


class JsonSchema(_Wire):
    name: str = "schema"
    schema_: dict[str, Any] = Field(default_factory=lambda: {"type": "object"}, alias="schema")


class Format(_Wire):
    """`response_format`; in Responses, where the schema stands beside the type, `text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class StreamOptions(_Wire):
    include_usage: bool = False


class Sampled(_Wire):
    """What all kinds of requests have in common. `top_k`, `min_p`, `repetition_penalty`: as other servers have them."""

    model: Annotated[str, Field(max_length=512)] = ""
    stream: bool = False
    temperature: Annotated[_Number, Field(ge=0, le=10)] | None = None
    top_p: Annotated[_Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[_Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[_Number, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[_Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[_Number, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stops = None
    user: str | None = None


class ChatRequest(Sampled):
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: Annotated[dict[str, Annotated[_Number, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    response_format: Format | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice = None
    stream_options: StreamOptions | None = None


class CompletionRequest(Sampled):
    prompt: (
        Text
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=128)]
        | Annotated[list[list[int]], Field(min_length=1, max_length=128)]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    n: Annotated[int, Field(ge=1, le=128)] = 1
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: Annotated[dict[str, Annotated[_Number, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    echo: bool = False
    stream_options: StreamOptions | None = None


class ResponseText(_Wire):
    format: Format | None = None


class ResponseTool(_Wire):
    type: str
    name: Annotated[str, Field(max_length=64)] = ""
    description: Annotated[str, Field(max_length=16_384)] | None = None
    parameters: dict[str, Any] | None = None


class Item(_Wire):
    """Something in a Response's input: a message, a call, or what it gave."""

    type: str = "message"
    role: str | None = None
    content: Text | Annotated[list[Part], Field(max_length=4096)] | None = None
    name: str | None = None
    arguments: Text | None = None
    call_id: str | None = None
    output: Text | list[Part] | None = None


class ResponseRequest(Sampled):
    input: Text | Annotated[list[Item], Field(min_length=1, max_length=4096)]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: ResponseText | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
