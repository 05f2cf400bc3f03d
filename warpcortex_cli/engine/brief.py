"""What a Stream is given and what it comes back as: a Brief goes to a worker, a Thought returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import re2
from torch import Tensor

from warpcortex_cli.profile import Role
from warpcortex_cli.synapse.snapshot import Synapse


@dataclass(frozen=True)
class Brief:
    """The whole of what a Stream knows. It says nothing of where the Stream runs.

    Attributes:
        number: of the Stream, for messages and seeds.
        role: what kind of work it is.
        task: what it is asked.
        groups: the trigger's named groups, which the role's prompt may show.
        synapse: landmarks of the River that it reads; None where its role or its worker reads none.
        focus: River tokens of its focus set, by number, ascending.
        focus_lines: the sentences of these, numbered, where the role's prompt shows them; their KV is not copied then.
        prompt: its instruction as a user turn, in tokens; empty where its worker reads no text of the model's.
        weighed: whether the Gate asks how probable each of its tokens was.
    """

    number: int
    role: Role
    task: str
    groups: Mapping[str, str] = field(default_factory=dict)
    synapse: Synapse | None = None
    focus: tuple[int, ...] = ()
    focus_lines: str = ""
    prompt: tuple[int, ...] = ()
    weighed: bool = False

    @property
    def landmarks(self) -> int:
        """Tokens of the River that it reads in its Synapse."""
        return self.synapse.landmarks if self.synapse else 0

    @property
    def copied(self) -> tuple[int, ...]:
        """River tokens whose KV it reads besides: its focus set, unless its prompt shows that."""
        return () if self.role.rereads else self.focus

    def instruction(self) -> str:
        """What it is told: the role's prompt for its task, with the sentences of its focus where these have a place."""
        drop = self.role.drop
        asked = re2.sub(drop, "", self.task).strip() if drop else self.task
        fields = {**self.groups, "task": asked or self.task, "focus": self.focus_lines}
        return self.role.prompt.format(**fields).strip()


@dataclass(frozen=True)
class Thought:
    """What a worker made of a Brief.

    Attributes:
        text: the thought; empty: there is none.
        why: how the work ended; of a thought that is empty, the reason that the user reads.
        log_probabilities: of the tokens that came to it, where the Brief asked for them.
        hidden: the last hidden state of its newest token [1, hidden_size], where a model wrote it. Dropped once the
            Gate has judged.
    """

    text: str
    why: str = ""
    log_probabilities: tuple[float, ...] = ()
    hidden: Tensor | None = None
