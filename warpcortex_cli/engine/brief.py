"""A Stream's input and output: a worker gets a Brief and returns a Thought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import re2
from torch import Tensor

from warpcortex_cli.profile import Role
from warpcortex_cli.synapse.snapshot import Synapse


@dataclass(frozen=True)
class Brief:
    """All that a Stream knows. It does not say where the Stream runs.

    Attributes:
        number: the Stream's, for messages and seeds.
        role: the kind of work.
        task: what it is asked.
        groups: the trigger's named groups, which the role's prompt may use.
        synapse: the landmarks of the River that it reads; None if its role or worker reads none.
        focus: River tokens of its focus set, by number, ascending.
        focus_lines: their sentences, numbered, if the role's prompt shows them; then their KV is not copied.
        prompt: its instruction as a user turn, in tokens; empty if its worker takes no tokens.
        weighed: whether the Gate needs the probability of each token it writes.
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
        """How many landmarks it reads."""
        return self.synapse.landmarks if self.synapse else 0

    @property
    def copied(self) -> tuple[int, ...]:
        """River tokens whose KV is copied into its tail: its focus set, unless the prompt shows that as text."""
        return () if self.role.rereads else self.focus

    def instruction(self) -> str:
        """The role's prompt, filled in with the task and, where it asks for them, the sentences of the focus set."""
        drop = self.role.drop
        asked = re2.sub(drop, "", self.task).strip() if drop else self.task
        fields = {**self.groups, "task": asked or self.task, "focus": self.focus_lines}
        return self.role.prompt.format(**fields).strip()


@dataclass(frozen=True)
class Thought:
    """A worker's answer to a Brief.

    Attributes:
        text: the thought; empty if there is none.
        why: how the work ended; if there is no thought, the reason that the user reads.
        log_probabilities: of the tokens that led to it, if the Brief asked for them.
        hidden: the last hidden state of its newest token, [1, hidden_size], if a model wrote it. Dropped once the
            Gate has judged.
    """

    text: str
    why: str = ""
    log_probabilities: tuple[float, ...] = ()
    hidden: Tensor | None = None
