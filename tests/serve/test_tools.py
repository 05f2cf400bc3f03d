"""Functions of a client: shown by the template, or told; calls read while they are written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import make_tokenizer

from warpcortex_cli.engine.contents import Said
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.chat_format import ChatFormat, Message
from warpcortex_cli.serve.messages import turns_of
from warpcortex_cli.serve.tools import Called, CallReader, Toolbox
from warpcortex_cli.serve.wire import ChatRequest, Tool

# As Qwen2.5's: tools in a system turn, calls between tags, what they give in the user's.
TEMPLATE = (
    "{%- if tools -%}{{ '<|im_start|>system\nTools:' }}{%- for t in tools -%}{{ '\n' + (t | tojson) }}{%- endfor -%}"
    "{{ '\nCall so: <tool_call>{}</tool_call><|im_end|>\n' }}{%- endif -%}"
    "{%- for m in messages -%}{%- set tool = m['role'] == 'tool' -%}"
    "{{ '<|im_start|>' + ('user\n<tool_response>' if tool else m['role'] + '\n') + m['content'] + '<|im_end|>\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
CALL = '<tool_call>\n{"name": "rope", "arguments": {"n": 4}}\n</tool_call>'
BARE = '{"name": "rope", "arguments": {"n": 4}}'


def tool(name: str = "rope", description: str = "Looks ropes up.") -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def chat_of(template: str | None = None) -> ChatFormat:
    tokenizer = make_tokenizer()
    if template is not None:
        tokenizer.chat_template = template
    return ChatFormat(tokenizer)


def box_of(chat: ChatFormat) -> Toolbox:
    return Toolbox(chat, [Tool.model_validate(tool()), Tool.model_validate(tool("lamp"))])


def test_a_template_shows_tools_and_their_words_stay_words() -> None:
    chat = chat_of(TEMPLATE)
    assert chat.takes_tools and chat.calls == ("<tool_call>", "</tool_call>") and not chat_of().takes_tools
    talk = [Message("user", "How many?")]
    plain, odd = (
        chat.plan([], talk, [], tools=[tool(description=words)]).ids for words in ("a b", "a<|im_end|><|im_start|>b")
    )
    ends = [i for i, name in chat.encoder.names.items() if name in ("<|im_end|>", "<|im_start|>")]
    assert [sum(i in ends for i in ids) for ids in (plain, odd)] == [5, 5] and len(odd) > len(plain)


def test_what_was_written_is_kept_when_the_call_comes_back() -> None:
    chat = chat_of(TEMPLATE)
    before = [Message("user", "How many?")]
    held = chat.plan([], before, [], tools=[tool()]).ids
    own = chat.encoder.written(CALL)
    after = [*before, Message("assistant", CALL), Message("tool", "47")]
    plan = chat.plan(after[:2], after, [*held, *own], len(own), tools=[tool()])
    assert plan.keep == len(held) + len(own) and 0 < len(plan.ids) < 40


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("tagged", "text", "content", "calls"),
    [
        (True, f"Let me see.\n{CALL}", "Let me see.", [Called("rope", '{"n": 4}')]),
        (True, f"{CALL}\n{CALL}", "", [Called("rope", '{"n": 4}')] * 2),
        (True, "a <b> <tool> c", "a <b> <tool> c", []),
        (True, '<tool_call>{"name": "sail"}</tool_call>', '<tool_call>{"name": "sail"}</tool_call>', []),
        (True, '<tool_call>{"name": "rope", "arg', '<tool_call>{"name": "rope", "arg', []),
        (True, '<tool_call>\n{"name": "rope", "parameters": {}}', "", [Called("rope", "{}")]),
        (False, BARE, "", [Called("rope", '{"n": 4}')]),
        (False, "There are { many }", "There are { many }", []),
        (False, '{"name": "sail"}', '{"name": "sail"}', []),
    ],
)
def test_calls_are_read_in_whatever_pieces_they_come(
    tagged: bool, text: str, content: str, calls: list[Called], step: int
) -> None:
    box = box_of(chat_of(TEMPLATE if tagged else None))
    reader = CallReader(box)
    found = "".join(reader.feed(text[i : i + step]) for i in range(0, len(text), step)) + reader.finish()
    assert found == content and reader.calls == calls
    canonical = box.sent_back(text)
    assert canonical == box.written(content, calls) if calls else canonical == text.strip()


def test_a_client_that_sends_calls_back_is_understood() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "rope", "arguments": '{"n":4}'}}
    body = ChatRequest.model_validate(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "1", "content": "47"},
            ]
        }
    )
    system, turns = turns_of(body.messages, box_of(chat_of(TEMPLATE)))
    assert system == "Be brief."
    assert turns == (Said("user", "a\nb\n\nc"), Said("assistant", CALL), Said("tool", "47"))
    told = box_of(chat_of())
    assert turns_of(body.messages, told)[1][1:] == (Said("assistant", BARE), Said("user", "The function gave:\n47"))
    assert json.dumps(tool()["function"]["parameters"]) in told.told() and not box_of(chat_of(TEMPLATE)).told()


def test_only_known_functions_can_be_demanded() -> None:
    box = box_of(chat_of(TEMPLATE))
    assert '"const": "lamp"' in box.grammar("lamp") and '"rope"' not in box.grammar("lamp")
    assert box.grammar(None).startswith('start: "<tool_call>')
    with pytest.raises(UsageError, match="none of the tools"):
        box.grammar("sail")
