"""Encodes text. Control tokens come only from a conversation's frame, never from the words in it.

A control token is an added token of the tokenizer, special or not, or a token of the vocabulary that the chat template
writes in the same way. Their names in somebody's words are read as letters. Added tokens of white space alone are no
control tokens: some tokenizers use them for runs of spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, models

# Letters that no normalizer changes, joins or drops. Those that a text does not contain can stand for something else.
_RARE = range(0x17000, 0x187F8)  # Tangut
_UNKNOWN = "\U000e0fff"  # no character has this number
_ORDINARY = "\0"  # the only word in the vocabulary of the tokenizer that finds names
_LEADS = ("a", ".", "0", "\n", "A", "-")
CONTEXT = 512  # characters before a seam that are encoded with the text after it; words are shorter


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text, and the characters [begin, end) of each."""

    ids: list[int]
    spans: list[tuple[int, int]]


class Disguise:
    """Disguises words: names of control tokens in them are broken up by letters that occur nowhere else.

    Args:
        texts: all words that will be encoded as one text.
    """

    def __init__(self, encoder: Encoder, texts: Iterable[str]) -> None:
        self._encoder = encoder
        used = {c for text in texts for c in set(text) if ord(c) in _RARE} if encoder.single or encoder.names else set()
        self._free = (chr(n) for n in _RARE if chr(n) not in used)
        self._break = next(self._free)
        self.meant = {self._break: ""}  # the meaning of each letter
        self._for: dict[str, str] = {}

    def __call__(self, text: str, keep: Sequence[str] = ()) -> str:
        """The words, disguised. Names in `keep` stay as they are."""
        while found := self._encoder.find(text, keep):
            for start, end in reversed(found):
                if end - start > 1:
                    text = text[: start + 1] + self._break + text[start + 1 :]
                else:
                    text = text[:start] + self._stand_in(text[start]) + text[end:]
        return text

    def values(self, value: Any) -> Any:
        """JSON with all its words disguised."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {self(str(key)): self.values(item) for key, item in value.items()}
        return [self.values(item) for item in value] if isinstance(value, (list, tuple)) else value

    def _stand_in(self, char: str) -> str:
        if char not in self._for:
            self._for[char] = next(self._free)
            self.meant[self._for[char]] = char
        return self._for[char]

    def anchors(self, count: int) -> list[str]:
        """Letters that occur nowhere and stand for nothing."""
        return [next(self._free) for _ in range(count)]

    def within(self, text: str) -> bool:
        """Whether anything in a text is disguised."""
        return any(letter in text for letter in self.meant)


class Encoder:
    """Encodes with a tokenizer of transformers that runs on the `tokenizers` library.

    Attributes:
        controls: the control tokens among the added ones, by id.
        names: the names of all control tokens, by id.
        single: whether one of them is a single character.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        added = self._backend.get_added_tokens_decoder()
        self.controls = {i: t for i, t in added.items() if t.content.strip(" \u2581\t\r\n")}
        self._blanks = {i: t for i, t in added.items() if i not in self.controls}
        self.names = {i: t.content for i, t in self.controls.items()}
        self._tokens = dict(self.controls)
        # What unknown characters become. It may be an added token, which then stands for no name.
        unknown = self._backend.model.tokenize(_UNKNOWN)
        self._unknown = unknown[0].id if len(unknown) == 1 else None
        self._prepare()

    def _prepare(self) -> None:
        self.single = any(len(name) == 1 for name in self.names.values())
        self._finder: Tokenizer | None = None
        # Text that begins no name need not be searched, unless a normalizer can make one of other characters.
        plain = self._backend.normalizer is None or not any(t.normalized for t in self._tokens.values())
        self._begins = {name[0] for name in self.names.values()} if plain else None

    def also(self, ids: Iterable[int]) -> None:
        """Treats these tokens of the vocabulary as control tokens, too."""
        for i in ids:
            name = self._backend.decode([i], skip_special_tokens=False).strip()
            if name and i not in self.names and i != self._unknown:
                self.names[i] = name
                self._tokens[i] = AddedToken(name, normalized=False)
        self._prepare()

    def find(self, text: str, keep: Sequence[str] = ()) -> list[tuple[int, int]]:
        """The names of control tokens that the tokenizer would find in a text, in order."""
        if not self.names or (self._begins is not None and not any(c in text for c in self._begins)):
            return []
        if self._finder is None:
            self._finder = _over(models.WordLevel({_ORDINARY: 0}, _ORDINARY), self._backend.normalizer, None)
            self._finder.add_tokens(list(self._tokens.values()))
        found = self._finder.encode(text, add_special_tokens=False)
        places = [_core(text, *span) for i, span in zip(found.ids, found.offsets, strict=True) if i]
        return [(start, end) for start, end in places if text[start:end] not in keep]

    def ids(self, text: str) -> list[int]:
        """Token ids of somebody's words, which never hold a control token."""
        disguise = Disguise(self, [text])
        return self.encode(disguise(text), disguise).ids

    def written(self, text: str) -> list[int]:
        """Token ids of our own text, in which names of control tokens are meant."""
        return self.encode(text, Disguise(self, [text])).ids

    def encode(self, text: str, disguise: Disguise) -> Encoded:
        """Encodes a text in which undisguised names of control tokens are meant.

        Spans refer to the disguised text. If nothing is disguised, this is the tokenizer's own encoding.
        """
        tokenizer = self._backend
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = False  # an earlier caller may have left it on
        encoding = tokenizer.encode(text, add_special_tokens=False)
        found = Encoded(encoding.ids, encoding.offsets)
        held = [(i, span) for i, span in zip(found.ids, found.spans, strict=True) if i in self.names]
        meant = [(i, span) for i, span in held if self._is_written(i, text, span)]
        if len(meant) == len(held) - sum(i == self._unknown for i, _ in held) and not disguise.within(text):
            return found
        return self._without_names(text, meant, disguise)

    def _is_written(self, token: int, text: str, span: tuple[int, int]) -> bool:
        """Whether a control token stands for its own name; a normalizer may make one of other characters."""
        start, end = _core(text, *span)
        named = self._tokens[token].normalized or text[start:end] == self.names[token]
        return named and token != self._unknown

    def _without_names(self, text: str, meant: list[tuple[int, tuple[int, int]]], disguise: Disguise) -> Encoded:
        """Encodes with a tokenizer without control tokens: letters stand for those that are meant.

        These letters are added tokens with the same properties, so the text around them is encoded the same.
        """
        kinds = sorted({i for i, _ in meant})
        anchors = dict(zip(kinds, disguise.anchors(len(kinds)), strict=True))
        pieces: list[tuple[int, str]] = []  # places in the text, and the token read there
        at = 0
        for i, span in meant:
            start, end = _core(text, *span)
            pieces += [*_restored(text, at, start, disguise), (start, anchors[i])]
            at = end
        pieces += _restored(text, at, len(text), disguise)
        where = [begin + n if len(piece) > 1 else begin for begin, piece in pieces for n in range(len(piece))]
        plain = _over(self._backend.model, self._backend.normalizer, self._backend.pre_tokenizer)
        plain.add_tokens([*(_like(self._tokens[i], anchors[i]) for i in kinds), *self._blanks.values()])
        own = {a: i for i, a in anchors.items()} | {t.content: i for i, t in self._blanks.items()}
        plain_text = "".join(piece for _, piece in pieces)
        found = plain.encode(plain_text, add_special_tokens=False)
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        where.append(len(text))
        for i, token, (start, end) in zip(found.ids, found.tokens, found.offsets, strict=True):
            if token in own:
                parts = [own[token]]
            elif i in self.names and (i != self._unknown or plain_text[start:end] == token):
                parts = self.spelled(token)
            else:
                parts = [i]
            ids += parts
            spans += [(where[start], where[end - 1] + 1 if end > start else where[start])] * len(parts)
        return Encoded(ids, spans)

    def spelled(self, token: str) -> list[int]:
        """A token of the vocabulary, spelled in letters or bytes."""
        model = self._backend.model
        joint = getattr(model, "continuing_subword_prefix", None) or ""
        ids: list[int] = []
        for n, char in enumerate(token.removeprefix(joint)):
            inside = model.token_to_id(joint + char) if n or (joint and token.startswith(joint)) else None
            letter = model.token_to_id(char) if inside is None else inside
            spelling = [letter, *(model.token_to_id(f"<0x{b:02X}>") for b in char.encode("utf-8", "replace"))]
            bytes_of = [i for i in spelling[1:] if i is not None]
            if letter is not None and letter not in self.names:
                ids.append(letter)
            elif bytes_of:
                ids += bytes_of
            elif (unknown := getattr(model, "unk_token", None)) is not None:
                ids += [i for i in [model.token_to_id(unknown)] if i is not None]
        return ids

    def behind(self, text: str, seam: int, disguise: Disguise) -> Encoded:
        """Tokens of `text` from the character `seam` on, as in the encoding of the whole text.

        If a token spans the seam, the text after the seam is encoded by itself.
        """
        start = max(0, seam - CONTEXT)
        found = self.encode(text[start:], disguise)
        spans = [(begin + start, end + start) for begin, end in found.spans]
        first = next((n for n, (begin, _) in enumerate(spans) if begin >= seam), len(spans))
        ids, over = found.ids[first:], spans[first - 1][1] if first else seam
        if first and over > seam:
            i = found.ids[first - 1]
            if i in self.names:  # it includes white space
                if _core(text, *spans[first - 1])[0] >= seam:
                    return Encoded([i, *ids], spans[first - 1 :])
            else:
                rest = self._inside(text[seam:over], disguise)
                return Encoded([*rest, *ids], [*[(seam, over)] * len(rest), *spans[first:]])
        return Encoded(ids, spans[first:])

    def _inside(self, text: str, disguise: Disguise) -> list[int]:
        """Tokens of a text that continues another."""
        for lead in _LEADS:
            found = self.encode(lead + text, disguise)
            first = next((n for n, (begin, _) in enumerate(found.spans) if begin >= 1), len(found.spans))
            if first and found.spans[first - 1][1] <= 1:
                return found.ids[first:]
        return self.encode(text, disguise).ids

    def continued(self, before: str, text: str) -> list[int]:
        """Token ids of somebody's words after others, as in one text."""
        before = before[-CONTEXT:]
        disguise = Disguise(self, [before, text])
        hidden = disguise(before)
        return self.behind(hidden + disguise(text), len(hidden), disguise).ids


def _over(model: Any, normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    """A tokenizer with the same model, without added tokens."""
    made = Tokenizer(model)
    if normalizer is not None:
        made.normalizer = normalizer
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    return made


def _like(token: AddedToken, name: str) -> AddedToken:
    return AddedToken(
        name, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip, normalized=token.normalized
    )


def _core(text: str, start: int, end: int) -> tuple[int, int]:
    """A token without the white space that it includes."""
    words = text[start:end]
    return start + len(words) - len(words.lstrip()), end - (len(words) - len(words.rstrip()))


def _restored(text: str, start: int, end: int, disguise: Disguise) -> list[tuple[int, str]]:
    """A part of a text without its disguise: places, and the text there."""
    pieces: list[tuple[int, str]] = []
    at = start
    for n in range(start, end):
        if text[n] in disguise.meant:
            pieces += [(at, text[at:n]), (n, disguise.meant[text[n]])]
            at = n + 1
    return [(n, piece) for n, piece in [*pieces, (at, text[at:end])] if piece]
