"""A conversation as tokens: rendered by the tokenizer's chat template, and encoded as one text.

Tokens that the context already holds are kept, and only the rest of the new text is read. If a template rewrites
earlier turns (it may drop earlier thinking, or move the system prompt), tokens that differ are taken back.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from warpcortex_cli.prism.deadline import TakesTooLong, at_most
from warpcortex_cli.prism.encoding import CONTEXT, Disguise, Encoder

_MARKS = ("WARPSYSTEM", "WARPFIRST", "WARPREPLY", "WARPSECOND")
_AGREED = "Understood."  # the reply to a system prompt, if the template has no place for one
_USUAL = ("<think>", "</think>")
_CALLS = ("<tool_call>", "</tool_call>")
_AS_IS: dict[str, Any] = {"ensure_ascii": False}  # of JSON: as templates write it
_CLOSING = re.compile(
    r"(?P<begin>[<\[\u25c1]\|?)(?:/|END_)(?P<word>(?:\w+:)?\w*(?:think|thought|reason)\w*)(?P<end>\|?[>\]\u25b7])", re.I
)
_CONTROL = re.compile(r"[<\[\uff1c\u25c1](?!0x[0-9A-Fa-f]{2}>)\S*[^\W\d]\S*[>\]\uff1e\u25b7]")
_LIMIT = 5.0  # seconds for a template, which takes milliseconds
_CHECKED = 32  # tokens before a seam that must agree with the text


class Message(NamedTuple):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


Tools = Sequence[Mapping[str, Any]]  # what a model may call, as OpenAI's API describes it


@dataclass(frozen=True)
class Plan:
    """How a context comes to hold a conversation: `keep` its first tokens, then read `ids`.

    `said`: among the tokens to be read, the ranges [first, last) of the context that are replies.
    """

    keep: int
    ids: list[int]
    said: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Thinking:
    """The tags around a model's thinking. `known`: the model has them; else they count only at the start."""

    opening: str
    closing: str
    known: bool


class ChatFormat:
    """The tokenizer's chat template. Without a usable one, turns are "User:" and "Assistant:" lines.

    Attributes:
        encoder: encodes text.
        templated: whether the tokenizer's template is used.
        problem: why it is not, or "".
        turn_end: the token that ends a reply, if the template closes replies with a control token.
        thinking: the tags around the model's thinking.
        tags: tokens of these tags that decoding drops.
        takes_tools: whether the template shows the model what it may call.
        calls: the tags around a call that the model writes, or "" twice.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        self.templated, self.problem = True, ""
        try:
            one, two = self._specimens()
        except Unusable as error:
            self.templated, self.problem = False, str(error)
            one, two = self._specimens()
        self._takes_system = self._finds_system()
        if self.templated:
            self._find_controls(two)
        self._pieces(one, two)
        self.thinking = self._read_thinking()
        self.takes_tools = self._finds_tools()
        self.calls = _CALLS if self.takes_tools and any(_CALLS[0] in text for text in self._templates()) else ("", "")
        self._opened: dict[bool | None, str] = {}
        special = set(tokenizer.all_special_ids)
        tags = (self.thinking.opening, self.thinking.closing, *self.calls)
        self.tags = {i: name for i, name in self.encoder.names.items() if name in tags and i in special}

    # -- a conversation ------------------------------------------------------------------------------------------

    def prompt(self, words: str, system: str = "", thinking: bool | None = None) -> list[int]:
        """Token ids of a conversation that begins with these user words, up to where the model replies."""
        return self.plan([], [*_system(system), Message("user", words)], [], thinking=thinking).ids

    def turn(self, words: str, thinking: bool | None = None, opened: bool = False) -> list[int]:
        """Token ids after any reply: its end, a user turn of these words, and the beginning of the next reply."""
        _, first, reply, _ = _MARKS
        messages = [Message("user", first), Message("assistant", reply), Message("user", words)]
        disguise = Disguise(self.encoder, [words])
        text = self._text(messages, disguise, thinking, opened)
        return self.encoder.behind(text, text.index(reply) + len(reply), disguise).ids

    def plan(
        self,
        before: Sequence[Message],
        after: Sequence[Message],
        held: Sequence[int],
        own: int = 0,
        *,
        opened: bool = False,
        thinking: bool | None = None,
        tools: Tools = (),
    ) -> Plan:
        """What a context that holds one conversation must read to hold a longer one.

        Args:
            before: the conversation held; it may end in an open user turn.
            after: a conversation that continues `before`, up to user words or a reply.
            held: the tokens of the context.
            own: how many of the last ones the model wrote itself; they stay if the template shows them.
            opened: whether the last words of `after` will be continued.
            tools: what the model may call.
        """
        disguise = Disguise(self.encoder, [*(m.content for m in (*before, *after)), json.dumps(tools, **_AS_IS)])
        text = self._text(after, disguise, thinking, opened, tools)
        if not before or not held:
            ids = self.encoder.encode(text, disguise).ids
            keep = min(common(list(held), ids), len(ids) - 1)
            return Plan(keep, ids[keep:])
        replies = [self._disguised(m, disguise) for m in after if m.role == "assistant"]
        if after[-1].role == "assistant":  # the reply is to be read, too
            seen = self._text(before, disguise, thinking, tools=tools)
            end = _end_of(self._shown(replies[-1]), text, common(seen, text))
            return self._changed(seen, text if end is None else text[:end], held, 0, disguise, replies)
        if before[-1].role != "assistant":
            seen = self._text(before, disguise, thinking, True, tools)
            return self._changed(seen, text, held, 0, disguise, replies)
        seen = self._text(before[:-1], disguise, thinking, tools=tools)
        said = self._disguised(before[-1], disguise).removeprefix(self.opened(thinking))
        seam = _end_of(said, text, len(seen)) if text.startswith(seen) else None
        if seam is not None and bool(own) == bool(said) and self._ends_in(seen, held[: len(held) - own], disguise):
            return Plan(len(held), self.encoder.behind(text, seam, disguise).ids)
        return self._changed(seen, text, held, own, disguise, replies)

    def _changed(
        self, seen: str, text: str, held: Sequence[int], own: int, disguise: Disguise, replies: Sequence[str]
    ) -> Plan:
        """Takes back the part of `seen`, and of the `own` tokens after it, with which `text` does not begin."""
        at = common(seen, text)
        start = max(0, at - CONTEXT)
        was, now = (self.encoder.encode(t[start:], disguise) for t in (seen, text))
        same = common(was.ids, now.ids)
        keep = len(held) - own - (len(was.ids) - same)
        sure = min(same, _CHECKED)
        if keep < sure or list(held[keep - sure : len(held) - own]) != was.ids[same - sure :]:
            start = 0
            now = self.encoder.encode(text, disguise)
            keep = same = common(list(held), now.ids)
        said = []
        begins = [begin + start for begin, _ in now.spans[same:]]
        found = 0
        for reply in map(self._shown, replies):
            found = max(found, text.find(reply, found)) if reply else found
            first, last = (keep + bisect_left(begins, place) for place in (found, found + len(reply)))
            if first < last:
                said.append((first, last))
            found += len(reply)
        return Plan(keep, now.ids[same:], tuple(said))

    def _ends_in(self, text: str, held: Sequence[int], disguise: Disguise) -> bool:
        """Whether the tokens end like the text."""
        ids = self.encoder.encode(text[-CONTEXT:], disguise).ids
        ids = ids if len(text) <= CONTEXT else ids[-_CHECKED:]
        return len(held) >= len(ids) and list(held[len(held) - len(ids) :]) == ids

    def _shown(self, reply: str) -> str:
        """The part of an earlier reply that templates show."""
        return reply.rpartition(self.thinking.closing)[2].strip()

    def opened(self, thinking: bool | None = None) -> str:
        """The thinking that the template itself begins: the tag and what follows, or ""."""
        if thinking not in self._opened:
            self._opened[thinking] = self._opening(thinking)
        return self._opened[thinking]

    def _opening(self, thinking: bool | None) -> str:
        first = _MARKS[1]
        text = self._render([Message("user", first)], thinking).rpartition(first)[2]
        start = text.rfind(self.thinking.opening)
        return text[start:] if start >= 0 and self.thinking.closing not in text[start:] else ""

    # -- text ----------------------------------------------------------------------------------------------------

    def _text(
        self,
        messages: Sequence[Message],
        disguise: Disguise,
        thinking: bool | None = None,
        opened: bool = False,
        tools: Tools = (),
    ) -> str:
        """The template's text of a conversation, up to where the next part of it begins.

        Args:
            opened: whether the last user words will be continued.
        """
        words = [Message(m.role, self._disguised(m, disguise)) for m in messages]
        named = disguise.values(list(tools))
        first, *rest = words
        if first.role == "system" and not self._takes_system:
            words = [Message("user", first.content), Message("assistant", _AGREED), *rest]
        last, mark = words[-1], _MARKS[3]
        if last.role == "assistant":
            return self._render([*words, Message("user", mark)], thinking, named)
        if not opened:
            return self._render(words, thinking, named)
        return self._render([*words[:-1], Message("user", last.content + mark)], thinking, named).rpartition(mark)[0]

    def _disguised(self, message: Message, disguise: Disguise) -> str:
        """A message's words, disguised. In replies tags of thinking and calls stay, because templates look for them."""
        tags = (self.thinking.opening, self.thinking.closing, *self.calls) if message.role == "assistant" else ()
        return disguise(message.content, tags)

    def _render(self, messages: Sequence[Message], thinking: bool | None = None, tools: Tools = ()) -> str:
        """The template's text, with the beginning of a reply. Raises Unusable if the template refuses."""
        if not self.templated:
            return self._lines(messages)
        chosen: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        if tools:
            chosen["tools"] = list(tools)
        try:
            with at_most(_LIMIT):
                text: str = self._tokenizer.apply_chat_template(
                    [m._asdict() for m in messages], tokenize=False, add_generation_prompt=True, **chosen
                )
        except TakesTooLong as error:
            raise Unusable(f"it takes more than {_LIMIT:g} s") from error
        except Exception as error:  # a template is foreign code and may raise anything
            first = re.split(r"(?<=[.!:]) ", " ".join(str(error).split()), maxsplit=1)[0].rstrip(".!:")
            raise Unusable(first[:120] or type(error).__name__) from error
        return text

    def _lines(self, messages: Sequence[Message]) -> str:
        text = self._tokenizer.bos_token or ""
        for role, content in messages:
            match role:
                case "system":
                    text += f"{content}\n\n"
                case "user":
                    text += f"User: {content}\nAssistant:"
                case _:
                    text += f"{content}\n"
        return text

    # -- reading the template ------------------------------------------------------------------------------------

    def _specimens(self) -> tuple[str, str]:
        """The text of one question, and of a conversation with two. Raises Unusable."""
        _, first, reply, second = _MARKS
        if self.templated and not getattr(self._tokenizer, "chat_template", None):
            raise Unusable("there is none")
        talk = [Message("user", first), Message("assistant", reply), Message("user", second)]
        one, two = self._render(talk[:1]), self._render(talk)
        if _split(one, first) is None or _split(two, first, reply, second) is None:
            raise Unusable("it does not show each turn once, as it is")
        return one, two

    def _finds_system(self) -> bool:
        system, first, *_ = _MARKS
        try:
            return _split(self._render([Message("system", system), Message("user", first)]), system, first) is not None
        except Unusable:
            return False

    def _find_controls(self, text: str) -> None:
        """Control tokens that are not added tokens: those that the template writes in the same form."""
        encoder = self.encoder
        ids = set(encoder.written(text)) - set(encoder.names)
        tokens = self._tokenizer.convert_ids_to_tokens(sorted(ids))
        encoder.also(
            i for i, token in zip(sorted(ids), tokens, strict=True) if _CONTROL.fullmatch(token.strip("\u2581"))
        )

    def _templates(self) -> list[str]:
        template = getattr(self._tokenizer, "chat_template", None)
        return list(template.values()) if isinstance(template, dict) else [template or ""]

    def _finds_tools(self) -> bool:
        if not self.templated:
            return False
        _, first, name, _ = _MARKS
        tool = {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}}
        try:
            return name in self._render([Message("user", first)], tools=[tool])
        except Unusable:
            return False

    def _read_thinking(self) -> Thinking:
        for found in (m for text in self._templates() for m in _CLOSING.finditer(text)):
            begin, word, end = found["begin"], found["word"], found["end"]
            opening = found[0].replace("END_", "START_") if "END_" in found[0] else f"{begin}{word}{end}"
            return Thinking(opening, found[0], True)
        return Thinking(*_USUAL, known=_USUAL[1] in self.encoder.names.values())

    # -- pieces, for measurements on models whose template keeps them apart ---------------------------------------

    def _pieces(self, one: str, two: str) -> None:
        _, first, reply, second = _MARKS
        start, close = _split(one, first) or ("", "")
        _, _, middle, _ = _split(two, first, reply, second) or ("",) * 4
        between = self.encoder.written(middle) if self.templated else self.encoder.written("\nUser: ")
        bare = self.encoder.written(start)
        self._user_open = _common_end(bare, between)
        self._user_close = self.encoder.written(close)
        self._assistant_close = between[: len(between) - len(self._user_open)]
        self._bare = bare[: len(bare) - len(self._user_open)]
        last = next(iter([*self._assistant_close, *self._user_open]), None)
        self.turn_end: int | None = last if self.templated and last in self.encoder.names else None

    def opening(self, system: str) -> list[int]:
        """What stands before the first user turn; without a system prompt if `system` is empty.

        Where the template shows a system prompt within that turn, it is agreed on first.
        """
        if not system.strip():
            return list(self._bare)
        turn = self.prompt(_MARKS[1])[len(self._bare) :]
        ids = self.prompt(_MARKS[1], system)
        if ids[len(ids) - len(turn) :] != turn:
            agreed = [Message("user", system.strip()), Message("assistant", _AGREED), Message("user", _MARKS[1])]
            ids = self.plan([], agreed, []).ids
        return ids[: len(ids) - len(turn)]

    def pinned(self, system: str, examples: Sequence[Message] = ()) -> int:
        """How many tokens stand before the words of the first user turn, or before that turn where it stands apart.

        Args:
            examples: turns before it.
        """
        disguise = Disguise(self.encoder, [system, *(m.content for m in examples)])
        text = self._text([*_system(system), *examples, Message("user", _MARKS[1])], disguise)
        ids = self.encoder.encode(text[: text.rindex(_MARKS[1])], disguise).ids
        within = ids[len(ids) - len(self._user_open) :] != self._user_open
        return len(ids) - (0 if within else len(self._user_open))

    def user_open(self) -> list[int]:
        """Begins a user turn."""
        return list(self._user_open)

    def user_close(self) -> list[int]:
        """Ends a user turn and begins the assistant's."""
        return list(self._user_close)

    def assistant_close(self) -> list[int]:
        """Ends an assistant turn whose end-of-turn token was not written."""
        return list(self._assistant_close)


class Unusable(Exception):
    """A template that cannot be used, or not for these messages, with the reason."""


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of somebody's words, with nothing added. Names of control tokens in them are plain text."""
    return Encoder(tokenizer).ids(text)


def _system(prompt: str) -> list[Message]:
    return [Message("system", prompt.strip())] if prompt.strip() else []


def conversation(system: str, *turns: Message) -> list[Message]:
    """A conversation. Without a system prompt if `system` is empty, so that the model's own default is used."""
    return [*_system(system), *turns]


def _end_of(said: str, text: str, start: int) -> int | None:
    """Where a reply that begins at `start` ends in the text. Templates may change the white space around it."""
    words = said.strip()
    if not words:
        return start
    begin = start + len(text[start:]) - len(text[start:].lstrip())
    if not text.startswith(words, begin):
        return None
    end = begin + len(words)
    blank = said[len(said.rstrip()) :]
    return end + len(blank) if text.startswith(blank, end) else end


def _split(text: str, *marks: str) -> list[str] | None:
    """The texts between the marks, each of which must occur once, in order."""
    if any(text.count(m) != 1 for m in marks):
        return None
    pieces = []
    for mark in marks:
        piece, found, text = text.partition(mark)
        if not found:
            return None
        pieces.append(piece)
    return [*pieces, text]


def common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _common_end(a: list[int], b: list[int]) -> list[int]:
    """The longest common end."""
    length = common(a[::-1], b[::-1])
    return a[len(a) - length :]
