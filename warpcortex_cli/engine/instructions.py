"""The part of a prompt that all Streams of a role share: prefilled once over a Synapse, and read by each of them."""

from __future__ import annotations

import string
from itertools import takewhile

from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.profile import Role
from warpcortex_cli.synapse.snapshot import Synapse

SHARED_FROM = 12  # tokens; fewer are cheaper in each tail than as one more segment to attend to


class Instructions:
    """The newest shared instruction of each role. An older one lives as long as a Stream reads it.

    The first Stream of a role over a Synapse reads the instruction in its own tail, because there may be no second. A
    shared instruction attends to no Stream's focus set.
    """

    def __init__(self, prism: Prism) -> None:
        self._prism = prism
        self._of: dict[str, Segment] = {}
        self._newest: dict[str, tuple[int, tuple[int, ...], str | None]] = {}  # by role: Synapse, prompt's beginning

    @property
    def nbytes(self) -> int:
        return sum(segment.nbytes for segment in self._of.values())

    def forget(self) -> None:
        self._of.clear()
        self._newest.clear()

    def shared(self, role: Role, alike: list[int], prompt: list[int], synapse: Synapse | None) -> Segment | None:
        """The segment that holds the first tokens of `prompt`; None if too few of them are common to the role.

        Args:
            alike: the role's prompt without a task.
            prompt: the whole prompt, task included; its last token is never shared.
        """
        # Where the task begins, one token may hold letters of both.
        same = takewhile(lambda pair: pair[0] == pair[1], zip(alike, prompt[:-1], strict=False))
        tokens = tuple(token for token, _ in same)
        if len(tokens) < SHARED_FROM:
            return None
        this = (synapse.version if synapse else 0, tokens, role.adapter)
        if self._newest.get(role.name) != this:
            self._newest[role.name] = this
            self._of.pop(role.name, None)
            return None
        if role.name not in self._of:
            self._of[role.name] = self._prefill(tokens, synapse, role.adapter)
        return self._of[role.name]

    def _prefill(self, tokens: tuple[int, ...], synapse: Synapse | None, adapter: str | None) -> Segment:
        start = synapse.position if synapse else 0
        tail = self._prism.new_tail(len(tokens))
        reads = (synapse.segment,) if synapse and synapse.landmarks else ()
        positions = list(range(start, start + len(tokens)))
        self._prism.forward([Row(list(tokens), positions, tail, reads, logits="none", adapter=adapter)])
        segment = tail.freeze(0, len(tokens))
        tail.release()
        return segment


def before_fields(prompt: str) -> str:
    """The text before the first field of a format string."""
    text, *_ = next(iter(string.Formatter().parse(prompt)), ("",))
    return text.lstrip()
