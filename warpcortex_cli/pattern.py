"""Analysis of google-re2 patterns for the Router: where an error is, and which text may still become a match.

Token boundaries can cut a request anywhere, so the Router asks of every piece of text whether it could become a request
with more text. re2 has no partial matching. `Pattern.prefixes` is the pattern rewritten to match exactly the non-empty
beginnings of its matches, so this question also costs linear time. (The package `regex` matches partially, but
backtracks, and hostile text can make it take exponential time.)
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import re2

WINDOW = 400  # characters: the longest request
_DISTINCT = 2  # characters: text that begins a request with this many is hardly anything else
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # or re2 writes to stderr itself

_FLAGS = re.compile(r"\(\?([imsU-]+)\)")
_GROUP = re.compile(r"\(\?P?<\w+>|\(\?([imsU-]*):|\(")
_REPEAT = re.compile(r"\{(\d+)(,?)(\d*)\}")
_ESCAPE = re.compile(r"\\(?:x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|[pP]\{[^}]*\}|[pP].|[0-7]{1,3}|.)", re.DOTALL)
_NOTHING = r"[^\x00-\x{10FFFF}]"
_ASSERTIONS = frozenset(("\\A", "\\z", "\\b", "\\B", "^", "$"))


class PatternError(ValueError):
    """A pattern that re2 or the Router cannot use. `offset`: the character of the error, from 0."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


@dataclass(frozen=True)
class _Char:
    """Matches one character: a literal, an escape, a class or the dot, as written in the pattern."""

    source: str


@dataclass(frozen=True)
class _Assertion:
    source: str


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Choice:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Scope:
    """A group with its own flags, `(?i:...)`, or the group named task."""

    flags: str
    part: _Node
    task: bool = False


@dataclass(frozen=True)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node = _Char | _Assertion | _Sequence | _Choice | _Scope | _Repeat


@dataclass(frozen=True)
class Pattern:
    """A checked pattern.

    Attributes:
        source: the pattern as written.
        whole: the same language without capturing groups.
        prefixes: matches exactly the non-empty beginnings of matches (ignoring assertions after their end).
        begun: matches the beginnings that have reached the group `task`; `opening` matches all beginnings. Both match
            nothing if fewer than two characters stand before that group, because those may well be plain text.
        first: matches one character: every one that a match can begin with, and perhaps more.
        shortest: characters of the shortest match, ignoring assertions.
        groups: names of its named groups.
        open_ended: whether a match may grow with more text (`.+` at the end), and so fire too early.
        may_be_empty: whether it matches the empty text.
    """

    source: str
    whole: str
    prefixes: str
    begun: str
    opening: str
    first: str
    shortest: int
    groups: frozenset[str]
    open_ended: bool
    may_be_empty: bool


def compile_re2(source: str) -> Any:
    """The compiled pattern (untyped in re2).

    Raises:
        PatternError: it does not compile.
    """
    try:
        return re2.compile(source, _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error.args[0])
        raise PatternError(reason.removesuffix(f": {source}"), _offset_of(source, reason)) from None


def parse(source: str) -> Pattern:
    """Checks a pattern and takes it apart.

    Raises:
        PatternError: it does not compile, or uses `\\C`, or flags after its beginning.
    """
    compiled = compile_re2(source)
    flags = _FLAGS.match(source)
    start = flags.end() if flags else 0
    node = _Parser(source, start).parse()
    head = flags.group() if flags else ""
    begun = _begun(node)
    distinct = begun is not None and begun[1] >= _DISTINCT
    prefixes = _prefixes(node) or _NOTHING
    return Pattern(
        source=source,
        whole=f"{head}{_whole(node)}",
        prefixes=f"{head}{prefixes}",
        begun=f"{head}{begun[0] if begun and distinct else _NOTHING}",
        opening=f"{head}{prefixes if distinct else _NOTHING}",
        shortest=_shortest(node),
        first=f"{head}(?:{'|'.join(_first(node)[0]) or _NOTHING})",
        groups=frozenset(compiled.groupindex),
        open_ended=_open_ended(node),
        may_be_empty=compiled.fullmatch("") is not None,
    )


@dataclass(frozen=True)
class Compiled:
    """Several patterns as one, compiled; attributes as in `Pattern`."""

    whole: Any
    prefixes: Any
    begun: Any
    opening: Any
    first: Any


def together(patterns: Sequence[Pattern]) -> Compiled:
    """Several patterns as one.

    Raises:
        PatternError: they are too large for re2.
    """
    return Compiled(
        **{f.name: compile_re2("|".join(f"(?:{getattr(p, f.name)})" for p in patterns)) for f in fields(Compiled)}
    )


def _offset_of(source: str, reason: str) -> int:
    """Where an error is. re2 names the fragment after a colon, not its position; for parentheses, ask Python's `re`."""
    what, _, fragment = reason.partition(": ")
    if what in ("missing )", "unexpected )"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about sets, which other versions may parse differently
                re.compile(source)
        except re.error as error:
            if "parenthesis" in error.msg or "subpattern" in error.msg:
                return error.pos or 0
    return max(0, source.find(fragment))


class _Parser:
    """Parses a pattern that re2 accepted, so it need not detect errors."""

    def __init__(self, source: str, start: int) -> None:
        self.source = source
        self.at = start

    def parse(self) -> _Node:
        return self._choice()

    def _choice(self) -> _Node:
        parts = [self._sequence()]
        while self.source[self.at : self.at + 1] == "|":
            self.at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self.at < len(self.source) and self.source[self.at] not in "|)":
            parts += self._quoted() if self.source.startswith("\\Q", self.at) else [self._repeated(self._atom())]
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _quoted(self) -> list[_Node]:
        begin = self.at + 2
        end = self.source.find("\\E", begin)
        text = self.source[begin:] if end < 0 else self.source[begin:end]
        self.at = len(self.source) if end < 0 else end + 2
        parts: list[_Node] = [_Char(re2.escape(c)) for c in text]
        if parts:
            parts[-1] = self._repeated(parts[-1])
        return parts

    def _atom(self) -> _Node:
        source, begin = self.source, self.at
        character = source[begin]
        if character == "(":
            return self._group()
        if character == "[":
            self.at = self._class_end(begin)
        elif character == "\\":
            escape = _ESCAPE.match(source, begin)
            assert escape is not None
            if escape.group() == "\\C":
                raise PatternError("single bytes cannot be matched in text: \\C", begin)
            self.at = escape.end()
        else:
            self.at += 1
        text = source[begin : self.at]
        return _Assertion(text) if text in _ASSERTIONS else _Char(text)

    def _group(self) -> _Node:
        if _FLAGS.match(self.source, self.at):
            raise PatternError("flags may stand only at the beginning of a pattern, or in a group (?i:...)", self.at)
        head = _GROUP.match(self.source, self.at)
        assert head is not None
        self.at = head.end()
        inner = self._choice()
        self.at += 1  # the closing parenthesis
        task = "<task>" in head.group()
        return _Scope(head.group(1) or "", inner, task) if head.group(1) or task else inner

    def _class_end(self, begin: int) -> int:
        source, i = self.source, begin + 1
        i += source[i] == "^"
        i += source[i] == "]"
        while source[i] != "]":
            if source[i] == "\\":
                i += 2
            elif source.startswith("[:", i) and ":]" in source[i:]:
                i = source.index(":]", i) + 2
            else:
                i += 1
        return i + 1

    def _repeated(self, node: _Node) -> _Node:
        character = self.source[self.at : self.at + 1]
        bounds = _REPEAT.match(self.source, self.at)
        if character and character in "*+?":
            self.at += 1
            node = _Repeat(node, int(character == "+"), 1 if character == "?" else None)
        elif bounds:
            self.at = bounds.end()
            least = int(bounds[1])
            node = _Repeat(node, least, least if not bounds[2] else int(bounds[3]) if bounds[3] else None)
        else:
            return node
        self.at += self.source[self.at : self.at + 1] == "?"  # lazy or greedy: the same language
        return node


def _whole(node: _Node) -> str:
    """A pattern of the node's language with non-capturing groups only."""
    match node:
        case _Char(source) | _Assertion(source):
            return source
        case _Sequence(parts):
            return f"(?:{''.join(_whole(p) for p in parts)})"
        case _Choice(parts):
            return f"(?:{'|'.join(_whole(p) for p in parts)})"
        case _Scope(flags, part):
            return f"(?{flags}:{_whole(part)})"
        case _Repeat(part, least, most):
            return _times(_whole(part), least, most)


def _times(source: str, least: int, most: int | None) -> str:
    return f"(?:{source}){{{least},{'' if most is None else most}}}"


def _prefixes(node: _Node) -> str | None:
    """The non-empty beginnings of the node's language; None when there are none."""
    match node:
        case _Char(source):
            return source
        case _Assertion():
            return None
        case _Sequence(parts):
            rest: str | None = None
            for part in reversed(parts):
                own = _prefixes(part)
                if rest is None:
                    rest = own
                elif isinstance(part, _Char):
                    rest = f"{own}(?:{rest})?"
                else:
                    rest = f"(?:{own}|{_whole(part)}(?:{rest}))" if own else f"{_whole(part)}(?:{rest})"
            return rest
        case _Choice(parts):
            options = [p for p in map(_prefixes, parts) if p]
            return f"(?:{'|'.join(options)})" if options else None
        case _Scope(flags, part):
            inner = _prefixes(part)
            return f"(?{flags}:{inner})" if inner else None
        case _Repeat(part, _, most):
            inner = _prefixes(part)
            if inner is None or most == 0:
                return None
            return f"{_times(_whole(part), 0, None if most is None else most - 1)}(?:{inner})"


def _begun(node: _Node) -> tuple[str, int] | None:
    """The beginnings of the node's language that have reached the group `task`, and the fewest characters before it.

    None when the group is not in the node.
    """
    match node:
        case _Sequence(parts):
            for i, part in enumerate(parts):
                inside = _begun(part)
                if inside is None:
                    continue
                before = "".join(map(_whole, parts[:i]))
                after = _prefixes(_Sequence(parts[i + 1 :]))
                rest = f"|{_whole(part)}(?:{after})" if after else ""
                return f"{before}(?:{inside[0]}{rest})", sum(map(_shortest, parts[:i])) + inside[1]
            return None
        case _Choice(parts):
            options = [found for found in map(_begun, parts) if found]
            return (f"(?:{'|'.join(o[0] for o in options)})", min(o[1] for o in options)) if options else None
        case _Scope(flags, part, task):
            if task:
                return f"(?:{_prefixes(part) or ''})?", 0
            inner = _begun(part)
            return inner and (f"(?{flags}:{inner[0]})", inner[1])
        case _Repeat(part, _, most):
            inner = _begun(part)
            more = _times(_whole(part), 0, None if most is None else max(0, most - 1))
            return inner and (f"{more}(?:{inner[0]})", inner[1])
        case _:
            return None


def _shortest(node: _Node) -> int:
    """Characters of the shortest text that the node matches."""
    match node:
        case _Char():
            return 1
        case _Assertion():
            return 0
        case _Sequence(parts):
            return sum(map(_shortest, parts))
        case _Choice(parts):
            return min(map(_shortest, parts))
        case _Scope(_, part):
            return _shortest(part)
        case _Repeat(part, least, _):
            return least * _shortest(part)


def _first(node: _Node) -> tuple[list[str], bool]:
    """Patterns of the first character, without assertions, and whether the node can be empty."""
    match node:
        case _Char(source):
            return [source], False
        case _Assertion():
            return [], True
        case _Sequence(parts):
            found: list[str] = []
            for part in parts:
                own, empty = _first(part)
                found += own
                if not empty:
                    return found, False
            return found, True
        case _Choice(parts):
            options = [_first(p) for p in parts]
            return [f for own, _ in options for f in own], any(empty for _, empty in options)
        case _Scope(flags, part):
            own, empty = _first(part)
            return ([f"(?{flags}:{'|'.join(own)})"] if own else []), empty
        case _Repeat(part, least, most):
            own, empty = _first(part)
            return ([] if most == 0 else own), empty or least == 0


def _open_ended(node: _Node) -> bool:
    match node:
        case _Char() | _Assertion():
            return False
        case _Sequence(parts):
            last = next((p for p in reversed(parts) if not isinstance(p, _Assertion)), None)
            return last is not None and _open_ended(last)
        case _Choice(parts):
            return any(map(_open_ended, parts))
        case _Scope(_, part):
            return _open_ended(part)
        case _Repeat(part, least, most):
            return most is None or most > max(least, 1) or _open_ended(part)
