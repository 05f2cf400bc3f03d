"""Roles that start where the model itself says that they are needed: `starts: probe`.

At the end of a sentence, a question such as `Is a calculation needed here?` is read after the River's own text, in a
row of the same forward, into a tail that is thrown away. The River's KV, positions and next token do not change. The
role starts if the probability of yes exceeds its threshold. Hogwild! Inference asks its workers in this way (Rodionov
et al. 2025, arXiv 2504.06261), and AsyncReasoning its model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.engine.injection import Reading
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.stepper import Part
from warpcortex_cli.events import ProbeAnswered
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import RowResult
from warpcortex_cli.profile import Role

_YES, _NO = (("yes", " yes", "Yes", " Yes", "YES"), ("no", " no", "No", " No", "NO"))


@dataclass(frozen=True)
class Probe:
    """One question about what the River has just written.

    Attributes:
        task, groups: passed to the role if it starts.
    """

    role: Role
    task: str
    groups: Mapping[str, str]
    reading: Reading


class Probes:
    """The questions of a conversation that are being read.

    Args:
        start: starts a role with its task and groups.
    """

    def __init__(self, river: River, journal: Journal, start: Callable[[Role, str, Mapping[str, str]], None]) -> None:
        self._river, self._journal, self._start = river, journal, start
        self._asked: list[Probe] = []

    def ask(self, role: Role, task: str, groups: Mapping[str, str]) -> None:
        """Starts reading the question of a role after all that the River has written.

        Asks nothing while the role's last question is still being read, or if it does not fit into the context.
        """
        river, prism = self._river, self._river.prism
        # The River's newest tokens are read in this very step, so the probe reads its own copies of them.
        ids = [*river.pending, *prism.chat.turn(role.probe, thinking=False)]
        first = river.position
        if any(p.role is role for p in self._asked) or first + len(ids) > prism.max_context:
            return
        positions = list(range(first, first + len(ids)))
        reading = Reading(prism, ids, positions, river.reads_behind(len(ids)), "last")
        self._asked.append(Probe(role, task, groups, reading))

    @property
    def wanted(self) -> int:
        """Tokens still to be read."""
        return sum(p.reading.left for p in self._asked)

    def parts(self, width: int) -> list[Part]:
        """The questions' next rows, with at most `width` tokens in all."""
        parts: list[Part] = []
        for probe in list(self._asked):
            room = min(width, probe.reading.left)
            if room > 0:
                with self._contained(probe):
                    row = probe.reading.row(room)
                    width -= len(row.tokens)
                    parts.append(Part(row, self._absorbing(probe), self._containing(probe), self._living(probe)))
        return parts

    def _absorbing(self, probe: Probe) -> Callable[[RowResult], None]:
        def absorb(result: RowResult) -> None:
            if probe not in self._asked:
                return
            probe.reading.absorb(result)
            if probe.reading.left:
                return
            assert probe.reading.newest is not None
            likely = yes(self._river.prism, probe.reading.newest)
            self._drop(probe)
            starts = likely > probe.role.probe_threshold
            self._journal.write(ProbeAnswered(role=probe.role.name, task=probe.task, yes=likely, started=starts))
            if starts:
                self._start(probe.role, probe.task, probe.groups)

        return absorb

    @contextmanager
    def _contained(self, probe: Probe) -> Iterator[None]:
        """A context in which an error ends only this question."""
        try:
            yield
        except Exception as error:
            self._drop(probe)
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            self._journal.write(ProbeAnswered(role=probe.role.name, task=probe.task, yes=None, started=False, why=why))

    def _containing(self, probe: Probe) -> Callable[[], AbstractContextManager[None]]:
        return lambda: self._contained(probe)

    def _living(self, probe: Probe) -> Callable[[], bool]:
        return lambda: probe in self._asked

    def _drop(self, probe: Probe) -> None:
        if probe in self._asked:
            self._asked.remove(probe)
            probe.reading.release()

    def drop(self) -> None:
        """Drops all questions, because the text they ask about has ended or was taken back."""
        for probe in list(self._asked):
            self._drop(probe)


def yes(prism: Prism, logits: Tensor) -> float:
    """The probability that the next word is yes, given that it is yes or no.

    Args:
        logits: [vocabulary].

    Raises:
        ValueError: they are not finite, or yes and no share their first token.
    """
    first = [{ids[0] for word in words if (ids := prism.encode(word))} for words in (_YES, _NO)]
    both = first[0] & first[1]
    if not (first[0] - both and first[1] - both):
        raise ValueError("the model's tokenizer does not tell yes from no by their first tokens")
    said = [torch.logsumexp(logits[sorted(ids - both)].float(), 0) for ids in first]
    likely = float(torch.sigmoid(said[0] - said[1]))
    if not 0 <= likely <= 1:
        raise ValueError("its logits are not finite")
    return likely
