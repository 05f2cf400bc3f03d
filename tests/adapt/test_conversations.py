"""What is learnt of a conversation, and that its tokens are those of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import make_profile
from warpcortex_cli.adapt.conversations import Conversation, Reading, end_of, read_conversations
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Role

SUM = [{"text": "There are 4 + 7 ="}, {"text": " 11", "weight": 0}, {"text": " ropes."}]


def said(*messages: tuple[str, Any], **more: Any) -> Conversation:
    return Conversation.model_validate({"messages": [{"role": r, "content": c} for r, c in messages], **more})


def reading(prism: Prism, role: Role | None = None, **river: Any) -> Reading:
    profile = make_profile(river={"prompt": "", **river})
    return Reading(prism.chat, profile, end_of(prism.chat, prism.tokenizer), role)


def test_only_replies_and_their_ends_are_learnt(prism: Prism) -> None:
    one = reading(prism).example(
        said(("user", "Who?"), ("assistant", "Mara."), ("user", "How many?"), ("assistant", "47."))
    )
    learnt = [i for i, wanted in zip(one.ids, one.learnt, strict=True) if wanted]
    end = prism.chat.turn_end
    assert learnt == [*prism.chat.encoder.ids("Mara."), end, *prism.chat.encoder.ids("47."), end]
    text = prism.tokenizer.decode(list(one.ids))
    assert (
        text
        == prism.tokenizer.decode(prism.chat.prompt("Who?"))
        + "Mara."
        + prism.tokenizer.decode(prism.chat.turn("How many?"))
        + "47.<|im_end|>"
    )


def test_what_a_tool_inserts_is_read_in_the_tokens_of_a_run_and_not_learnt(prism: Prism) -> None:
    one = reading(prism).example(said(("user", "How many?"), ("assistant", SUM)))
    encoder = prism.chat.encoder
    inserted = encoder.continued("There are 4 + 7 =", " 11")  # as Conversation._take_inline encodes it
    before = [*prism.chat.prompt("How many?"), *encoder.ids("There are 4 + 7 =")]
    first = len(before)
    assert list(one.ids[: first + len(inserted)]) == [*before, *inserted]
    assert not any(one.learnt[first : first + len(inserted)])
    assert all(one.learnt[first + len(inserted) :])
    assert all(one.learnt[len(prism.chat.prompt("How many?")) : first])


def test_the_end_of_a_reply_that_was_cut_is_not_learnt(prism: Prism) -> None:
    cut = reading(prism).example(said(("user", "Who?"), ("assistant", "Mara"), ends=False))
    assert cut.ids[-1] != prism.chat.turn_end
    assert cut.learnt[-1]


def test_the_river_reads_what_its_profile_says_unless_the_conversation_says_it(prism: Prism) -> None:
    asked = ("user", "Who?"), ("assistant", "Mara.")
    river = reading(prism, prompt="Be brief.", examples=[{"user": "Is it?", "assistant": "Yes."}])
    text = prism.tokenizer.decode(list(river.example(said(*asked)).ids))
    assert "Be brief." in text and "Yes." not in text  # an adapted River is shown no examples
    other = prism.tokenizer.decode(list(river.example(said(("system", "Be long."), *asked)).ids))
    assert "Be long." in other and "Be brief." not in other


def test_a_role_reads_its_own_prompt_and_learns_its_thought_alone(prism: Prism) -> None:
    role = Role(name="look", trigger=r"\[L: (?P<task>\w+)\]", prompt="Look up: {task}")
    one = reading(prism, role).example(
        said(("user", "Who?"), ("assistant", "Mara."), ("user", "ropes"), ("assistant", "47"))
    )
    assert "Look up: ropes" in prism.tokenizer.decode(list(one.ids))
    learnt = [i for i, wanted in zip(one.ids, one.learnt, strict=True) if wanted]
    assert learnt == [*prism.chat.encoder.ids("47"), prism.chat.turn_end]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "line 2 is no conversation"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "user and assistant must take turns"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "the assistant last"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]}, "a message is empty"),
        ({"messages": []}, "user and assistant must take turns"),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "weight": 0}]},
            "weight is 0",
        ),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "weight": 2}]},
            "weight",
        ),
        ({"text": "Hi"}, "messages: Field required"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: Any, why: str) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]})
    path = tmp_path / "data.jsonl"
    path.write_text(f"{good}\n{line if isinstance(line, str) else json.dumps(line)}\n")
    with pytest.raises(UsageError) as error:
        read_conversations(path)
    assert "line 2" in error.value.message and why in error.value.message and "\n" not in error.value.message


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("empty", "binary", "missing"):
        with pytest.raises(UsageError):
            read_conversations(tmp_path / name)
