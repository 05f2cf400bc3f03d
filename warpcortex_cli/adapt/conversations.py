"""Conversations to learn from, as JSON lines of chat messages, and the tokens that an agent reads and learns of them.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

The content of an assistant's message may be a list of parts, `{"text": "12 * 7 ="}, {"text": " 84", "weight": 0}`. A
part of weight 0 is read but not learnt, such as what a tool inserts. A whole message may have weight 0, too.
`"ends": false` next to the messages says that the last reply was cut off, so that its end is not learnt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import re2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.chat_format import ChatFormat, Message, conversation
from warpcortex_cli.profile import Profile, Role

_HINT = 'A line is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}.'
Weight = Annotated[int, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Strict):
    """A part of a reply. `weight`: 1 is learnt, 0 only read."""

    text: str
    weight: Weight = 1


class Turn(_Strict):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str | tuple[Part, ...]
    weight: Weight = 1

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its parts; all have weight 0 if the message has."""
        found = (Part(text=self.content),) if isinstance(self.content, str) else self.content
        return tuple(Part(text=part.text, weight=part.weight * self.weight) for part in found if part.text)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


class Conversation(_Strict):
    """A line of the file. `ends`: whether the last reply is complete."""

    messages: tuple[Turn, ...]
    ends: bool = True

    def problem(self) -> str | None:
        """Why nothing can be learnt from it; None if something can."""
        roles = [turn.role for turn in self.messages]
        talk = roles[1:] if roles[:1] == ["system"] else roles
        if not talk or talk != ["user", "assistant"] * (len(talk) // 2):
            return "after a system message, if any, user and assistant must take turns, the assistant last"
        if any(not turn.text.strip() for turn in self.messages if turn.role != "system"):
            return "a message is empty"
        if not any(part.weight for turn in self.messages if turn.role == "assistant" for part in turn.parts):
            return "nothing in it is to be learnt: every weight is 0"
        return None


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of a file.

    Raises:
        UsageError: it cannot be read, or a line is not a conversation; the message has the line number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.", _HINT) from error
    found = [_conversation(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"{path} holds no conversations.", _HINT)
    return found


def _conversation(line: str, where: str) -> Conversation:
    try:
        found = Conversation.model_validate(json.loads(line))
    except (json.JSONDecodeError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        raise UsageError(f"{where} is no JSON ({why}).", _HINT) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("tuple["))
        raise UsageError(f"{where} is no conversation ({place or 'the line'}: {first['msg']}).", _HINT) from error
    why_not = found.problem()
    if why_not:
        raise UsageError(f"{where}: {why_not}.", _HINT)
    return found


# -- as tokens -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A conversation as an agent reads it. `learnt`: for each of the `ids`, whether the agent is to write it."""

    ids: tuple[int, ...]
    learnt: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.ids)


class Reading:
    """Turns conversations into what a profile's River, or a Stream of one of its roles, reads.

    The River reads the profile's prompt first, unless the conversation has a system message. For a role, the last user
    message is the task that its prompt is filled in with, and only the last reply is learnt: earlier messages are the
    River's conversation, which the Stream reads.

    Args:
        end: the token that ends a reply.
        role: None for the River.

    Raises:
        UsageError: the role's prompt cannot be filled in from a conversation.
    """

    def __init__(self, chat: ChatFormat, profile: Profile, end: int, role: Role | None = None) -> None:
        self._chat, self._profile, self._end, self._role = chat, profile, end, role
        if role is not None:
            self._filled(role, "")

    def example(self, said: Conversation) -> Example:
        """The tokens of a conversation, and which of them are learnt."""
        turns, held = self._opened(said)
        ids: list[int] = []
        learnt: list[bool] = []
        own = 0
        thinking = False if self._role is not None else self._profile.river.thinking
        last = len(turns) - 1
        for n, turn in enumerate(turns):
            if turn.role == "assistant":
                own = self._reply(held, turn, ids, learnt, self._role is None or n == last, thinking)
                held = [*held, Message("assistant", turn.text)]
                continue
            after = [*held, Message("user", turn.text)]
            plan = self._chat.plan(held if ids else [], after, ids, own, thinking=thinking)
            del ids[plan.keep :], learnt[plan.keep :]
            ended = own and plan.ids[:1] == [self._end] and self._role is None and turns[n - 1].weight
            ids += plan.ids
            learnt += [bool(ended), *[False] * (len(plan.ids) - 1)]
            held = after
        if said.ends:
            ids.append(self._end)
            learnt.append(bool(turns[last].parts[-1].weight))
        return Example(tuple(ids), tuple(learnt))

    def _opened(self, said: Conversation) -> tuple[list[Turn], list[Message]]:
        """The turns, and the messages before them."""
        turns = list(said.messages)
        system = turns.pop(0).text if turns[0].role == "system" else None
        if self._role is not None:
            turns[-2] = Turn(role="user", content=self._filled(self._role, turns[-2].text))
            return turns, conversation(system or "")
        return turns, conversation(self._profile.river.prompt if system is None else system)

    def _filled(self, role: Role, task: str) -> str:
        asked = re2.sub(role.drop, "", task).strip() if role.drop else task
        try:
            return role.prompt.format(task=asked or task, focus="").strip()
        except KeyError as error:
            raise UsageError(
                f"the prompt of the role {role.name} has the field {error.args[0]!r}, which training data cannot fill.",
                "Use a profile whose prompt for this role has no field but {task}.",
            ) from None

    def _reply(
        self,
        held: Sequence[Message],
        turn: Turn,
        ids: list[int],
        learnt: list[bool],
        learns: bool,
        thinking: bool | None,
    ) -> int:
        """Adds a reply part by part, tokenized as an agent writes it. Returns the number of its tokens."""
        first, *others = turn.parts
        after = [*held, Message("assistant", first.text)]
        plan = self._chat.plan(held, after, ids, thinking=thinking)
        del ids[plan.keep :], learnt[plan.keep :]
        ids += plan.ids
        learnt += [learns and bool(first.weight)] * len(plan.ids)
        tokens, text = len(plan.ids), first.text
        for part in others:
            more = self._chat.encoder.continued(text, part.text)
            ids += more
            learnt += [learns and bool(part.weight)] * len(more)
            tokens, text = tokens + len(more), text + part.text
        return tokens


def examples_of(reading: Reading, said: Sequence[Conversation], longest: int) -> Iterator[Example | None]:
    """The example of each conversation; None for one with more tokens than `longest`."""
    for one in said:
        found = reading.example(one)
        yield found if len(found) <= longest else None


def end_of(chat: ChatFormat, tokenizer: Any) -> int:
    """The token that ends a reply. Raises UsageError if there is none."""
    end = chat.turn_end if chat.turn_end is not None else tokenizer.eos_token_id
    if end is None:
        raise UsageError("this model has no token that ends a reply.", "Choose another model.")
    return int(end)
