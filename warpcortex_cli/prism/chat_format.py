"""How a conversation is written in tokens, piece by piece, so that turns can be appended to a KV cache."""

from __future__ import annotations

from typing import Any

_MARKS = ("WARPSYSTEM", "WARPFIRST", "WARPREPLY", "WARPSECOND")
_AGREED = "Understood."  # the reply to a system prompt in models whose template has no place for one


def encode(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    """Token ids of a text, with nothing added.

    Args:
        tokenizer: a transformers tokenizer.
        text: any text.
        special: whether names of special tokens in it become those tokens. Text of users, files and models
            must not, or it could end its own turn.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
    return ids


class ChatFormat:
    """The pieces between which the words of a conversation stand, read off a tokenizer's chat template.

    A conversation is `opening(system)`, then for each exchange `user_open()` words `user_close()` reply, and
    `assistant_close()` before the next. A tokenizer without a usable template gets "User:" and "Assistant:"
    lines.

    Attributes:
        templated: whether the pieces come from the tokenizer's template.
        turn_end: the token that ends a reply, if the template closes replies with a special token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.templated = bool(getattr(tokenizer, "chat_template", None)) and self._read_template()
        if not self.templated:
            self._write_plainly()
        special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
        first = next(iter([*self._assistant_close, *self._user_open]), None)
        self.turn_end: int | None = first if self.templated and first in special else None

    def opening(self, system: str) -> list[int]:
        """What stands before the first user turn; without a system prompt if `system` is empty."""
        if not system.strip():
            return list(self._bare)
        words = encode(self._tokenizer, system.strip())
        if self._system is not None:
            before, after = self._system
            return [*before, *words, *after]
        reply = encode(self._tokenizer, _AGREED)
        return [*self._bare, *self._user_open, *words, *self._user_close, *reply, *self._assistant_close]

    def user_open(self) -> list[int]:
        """Begins a user turn."""
        return list(self._user_open)

    def user_close(self) -> list[int]:
        """Ends a user turn and begins the assistant's."""
        return list(self._user_close)

    def assistant_close(self) -> list[int]:
        """Ends an assistant turn whose end-of-turn token was not written."""
        return list(self._assistant_close)

    # -- reading the template --------------------------------------------------------------------------------

    def _render(self, *turns: tuple[str, str], reply: bool = False) -> str | None:
        """The template's text for some turns (role, words), or None when it does not accept them."""
        messages = [{"role": role, "content": words} for role, words in turns]
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=reply, enable_thinking=False
            )
        except Exception:  # a template is a foreign program: it raises whatever it likes
            return None
        return text

    def _read_template(self) -> bool:
        """Takes the pieces out of rendered conversations; False when the template keeps words not apart."""
        system, first, answer, second = _MARKS
        one = self._render(("user", first), reply=True)
        two = self._render(("user", first), ("assistant", answer), ("user", second), reply=True)
        start, close = _split(one, first) or (None, None)
        pieces = _split(two, first, answer, second)
        if start is None or close is None or pieces is None:
            return False
        between = self._ids(pieces[2])
        bare = self._ids(start)
        self._user_open = _common_end(bare, between)
        if not self._user_open:
            return False
        self._user_close = self._ids(close)
        self._assistant_close = between[: len(between) - len(self._user_open)]
        self._bare = bare[: len(bare) - len(self._user_open)]
        self._system = self._read_system(system, first)
        return True

    def _read_system(self, system: str, first: str) -> tuple[list[int], list[int]] | None:
        """What stands before and after a system prompt, or None where it would be part of a user turn."""
        pieces = _split(self._render(("system", system), ("user", first), reply=True), system, first)
        if pieces is None:
            return None
        after, opened = self._ids(pieces[1]), self._user_open
        if after[len(after) - len(opened) :] != opened:
            return None
        return self._ids(pieces[0]), after[: len(after) - len(opened)]

    def _ids(self, text: str) -> list[int]:
        return encode(self._tokenizer, text, special=True)

    def _write_plainly(self) -> None:
        bos = self._tokenizer.bos_token_id
        self._bare = [] if bos is None else [bos]
        self._user_open = self._ids("User: ")
        self._user_close = self._ids("\nAssistant:")
        self._assistant_close = self._ids("\n")
        self._system = (list(self._bare), self._ids("\n\n"))


def _split(text: str | None, *marks: str) -> list[str] | None:
    """The texts around the marks, which must stand in it once each and in order."""
    if text is None or any(text.count(m) != 1 for m in marks):
        return None
    pieces = []
    for mark in marks:
        piece, found, text = text.partition(mark)
        if not found:
            return None
        pieces.append(piece)
    return [*pieces, text]


def _common_end(a: list[int], b: list[int]) -> list[int]:
    """The longest list that both end with."""
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return a[len(a) - length :]
