"""Replies that keep to a JSON schema or another grammar, through llguidance, which is an extra."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.prism import Prism

# No model needs a choice of white space, and a small one may write nothing else.
COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT = {"type": "object"}


class Grammars:
    """Grammars over the tokens of one model. Its tokens are read once, which takes about a second.

    Raises:
        UsageError: llguidance is not installed, or cannot use the model's tokenizer.
    """

    def __init__(self, prism: Prism) -> None:
        try:
            import llguidance
            import llguidance.hf
        except ImportError:
            said = "replies that keep to a grammar need llguidance, which is not installed."
            raise UsageError(said, "Run: pip install 'warpcortex[serve]'") from None
        self._library = llguidance
        self._size = prism.vocab_size
        try:
            self._tokens = llguidance.hf.from_tokenizer(prism.tokenizer, prism.vocab_size, sorted(prism.eos_ids))
        except Exception as error:  # foreign code, about a tokenizer that may be anything
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(f"llguidance cannot use the tokenizer of {prism.name} ({said[:120]}).") from error

    def schema(self, schema: Mapping[str, Any]) -> Guided:
        """JSON that keeps to a schema.

        Raises:
            UsageError: the schema is not valid, or needs what llguidance does not know.
        """
        return self._guided(self._schema(schema))

    def any_json(self) -> Guided:
        """Any JSON object."""
        return self.schema(_ANY_OBJECT)

    def lark(self, grammar: str) -> Guided:
        """Text of a Lark grammar. Raises as `schema`.

        `%json {...}` stands there for JSON that keeps to a schema, whose "x-guidance" should be `COMPACT`.
        """
        return self._guided(self._library.LLMatcher.grammar_from_lark(grammar))

    def _schema(self, schema: Mapping[str, Any]) -> str:
        try:
            found: str = self._library.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=COMPACT)
        except ValueError as error:
            raise UsageError(f"this is no JSON schema ({error}).") from error
        return found

    def _guided(self, grammar: str) -> Guided:
        matcher = self._library.LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            said = (str(matcher.get_error()).strip().splitlines() or ["no reason given"])[0]
            raise UsageError(f"this grammar cannot be kept to ({said[:200]}).")
        return Guided(matcher, self._size)


class Guided:
    """How far one text has come in its grammar (`sampling.Grammar`)."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher = matcher
        self._size = size

    def allowed(self) -> Tensor:
        """As in `Grammar`. After an error nothing is allowed, which ends the reply with a reason."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        if self._matcher.is_error():
            return torch.zeros(self._size, dtype=torch.bool)
        every = bits[:, None].bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and(1).flatten().bool()
        return every[: self._size]

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)
