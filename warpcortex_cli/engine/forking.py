"""Two Rivers that begin alike: one takes a copy of what the other has read, so that it is not read again."""

from __future__ import annotations

from warpcortex_cli.engine.asides import Aside
from warpcortex_cli.engine.river import River
from warpcortex_cli.memory.tail import TailView


def begin_like(river: River, source: River, tokens: int) -> None:
    """Gives an empty River the first tokens of another one. What it reads next follows them.

    Raises:
        ValueError: keys and values of these tokens do not depend on these tokens alone, or they are too many.
    """
    if tokens > source.shareable:
        raise ValueError(f"only {source.shareable} tokens of that River depend on nothing else, not {tokens}")
    _copy(river, source, tokens)


def continue_like(river: River, source: River) -> dict[Aside, Aside]:
    """Gives an empty River all that another one holds: tokens, past and thoughts.

    Returns:
        Its own asides, by those of the other.
    """
    past = source.past
    river.past.store.copy_from(past.store)
    river.past.take_up(past.tokens, past.base, past.pinned, past.fingerprints.rows().tobytes() if past.tokens else b"")
    _copy(river, source, source.length)
    river.newest_like(source)
    river.past.recall(list(past.recalled))
    mine = {aside: _copied(aside) for aside in source.asides}
    river.asides.keep(mine.values())
    river.mixed_from = source.mixed_from
    return mine


def _copy(river: River, source: River, tokens: int) -> None:
    """Copies the first tokens and, of those that are not in the past, keys and values."""
    own = source.sentences.own[:tokens]
    river.sentences.extend(source.sentences.ids[:tokens])
    river.sentences.own[:] = own
    kept = source.tail.freeze(0, tokens - source.past.tokens)
    if kept.tokens:
        river.tail.append(kept.keys, kept.values, kept.positions)


def _copied(aside: Aside) -> Aside:
    kv = aside.kv
    return Aside(aside.stream, aside.text, aside.anchor, kv.freeze() if isinstance(kv, TailView) else kv)
