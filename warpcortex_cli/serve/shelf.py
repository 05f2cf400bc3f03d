"""Conversations between replies. A client sends all of its conversation each time; only what is new in it is read.

A conversation that goes on from one that is kept takes it as it is, with its thoughts. One that begins like another
takes a copy of the keys and values that depend on the common tokens alone, so nothing else of one client reaches
another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.dialogue import As, messages
from warpcortex_cli.engine.forking import begin_like
from warpcortex_cli.engine.session import Session
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.chat_format import Tools, Unusable, common
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.serve.job import Ask
from warpcortex_cli.ui.answer import Shown

_WORTH = 16  # tokens: fewer are read as fast as they are copied

_MANY = 512  # conversations: each holds a little more than keys and values


@dataclass
class Kept:
    """A conversation that nobody writes in.

    Attributes:
        turns: as the client knows them; None: nobody can go on from here.
        shown: what was shown of the replies in it.
    """

    session: Session
    turns: tuple[Said, ...] | None
    prompt: str
    tools: Tools
    shown: Shown

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values, as allocated, and of its newest queries."""
        river = self.session.river
        tiers, queries = river.past.store.tiers(), river.queries
        held = river.tail.nbytes + river.asides.nbytes + tiers["hot"].bytes + tiers["warm"].bytes
        return held + (0 if queries is None else queries.nbytes)

    def continued_by(self, ask: Ask) -> bool:
        turns = self.turns
        if turns is None or len(turns) >= len(ask.turns) or ask.turns[: len(turns)] != turns:
            return False
        return self.prompt == ask.profile.river.prompt and list(self.tools) == list(ask.tools)


class Shelf:
    """Keeps conversations, those used last the longest.

    Args:
        budget: bytes of keys and values.
        new: makes an empty session.

    Attributes:
        hits: how often a conversation went on from a kept one;
        copies: how often another one gave the first tokens.
    """

    def __init__(self, prism: Prism, budget: int, new: Callable[[], Session]) -> None:
        self._prism, self._budget, self._new = prism, budget, new
        self._kept: list[Kept] = []  # the one used longest ago first
        self.hits = self.copies = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept)

    def take(self, ask: Ask, ids: list[int], busy: Iterable[Session]) -> tuple[Session, Shown]:
        """A session for a reply, with as much of its prompt as is held already.

        Args:
            ids: the prompt's tokens.
            busy: sessions that write now, which can give copies, too.
        """
        going = [kept for kept in self._kept if kept.continued_by(ask)]
        if going:
            best = max(going, key=lambda kept: len(kept.turns or ()))
            self._kept.remove(best)
            self.hits += 1
            return best.session, best.shown
        sources = [*(kept.session for kept in self._kept), *busy]
        shares = [(self._share(session, ids), number) for number, session in enumerate(sources)]
        tokens, number = max(shares, default=(0, 0))
        session = self._new()
        if tokens >= _WORTH:
            begin_like(session.river, sources[number].river, tokens)
            self.copies += 1
        return session, Shown()

    @staticmethod
    def _share(session: Session, ids: list[int]) -> int:
        """How many of the first tokens a session could give."""
        river = session.river
        held = min(river.shareable, len(ids) - 1)
        return common(river.sentences.ids[:held].tolist(), ids[:held]) if held > 0 else 0

    def keep(self, kept: Kept) -> None:
        """Keeps a conversation, and drops those used longest ago that do not fit beside it."""
        self._kept.append(kept)
        while len(self._kept) > _MANY or (self._kept and self.nbytes > self._budget):
            self._kept.pop(0).session.close()

    def close(self) -> None:
        for kept in self._kept:
            kept.session.close()
        self._kept.clear()


def prompt_ids(prism: Prism, ask: Ask) -> list[int]:
    """The tokens of a prompt, without what a River that holds more of the conversation has in their place.

    Raises:
        UsageError: the model's template has no place for such a conversation.
    """
    if ask.ids:
        return list(ask.ids)
    settings = ask.profile.river
    talk = messages(settings, As(ask.turns), prism.chat.opened(settings.thinking))
    try:
        return prism.chat.plan([], talk, [], thinking=settings.thinking, tools=ask.tools).ids
    except Unusable as error:
        raise UsageError(f"the chat template of {prism.name} refuses this conversation ({error}).") from error
