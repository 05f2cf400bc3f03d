"""The checkpoint that a stopped training resumes from: one file, replaced atomically, so a kill leaves the old one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from warpcortex_cli.errors import RunError, UsageError

FILE = "training.safetensors"
_OTHER = "Name another --out, or delete that folder."


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        of: the model, data and settings, as one text; a training resumes only if they are the same.
        step: batches trained on so far.
        tokens: tokens read so far.
        losses: (step, loss on the held-out part in nats a token).
        best: the step with the lowest held-out loss.
        seconds: the training time so far.
        over: whether it ended early because the held-out loss stopped falling.
    """

    of: str
    step: int = 0
    tokens: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    best: int = 0
    seconds: float = 0.0
    over: bool = False

    @property
    def least(self) -> float:
        """The lowest held-out loss."""
        return min((loss for _, loss in self.losses), default=float("inf"))


def save(folder: Path, progress: Progress, groups: Mapping[str, Sequence[Tensor]]) -> None:
    """Writes progress and named lists of tensors. Raises RunError if the folder cannot be written."""
    tensors = {
        f"{name}.{n}": t.detach().cpu().contiguous() for name, some in groups.items() for n, t in enumerate(some)
    }
    half = folder / f"{FILE}.half"
    try:
        save_file(tensors, half, metadata={"progress": json.dumps(asdict(progress))})
        os.replace(half, folder / FILE)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{folder} cannot be written: {reason}.", "Make room there, or name another --out.") from error


def load(folder: Path, of: str, groups: Mapping[str, Sequence[Tensor]]) -> Progress:
    """Fills the tensors and returns the progress; a new one if the folder holds no checkpoint.

    Raises:
        UsageError: the checkpoint is of another training, or damaged.
    """
    path = folder / FILE
    if not path.exists():
        return Progress(of)
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads(file.metadata()["progress"])
            progress = Progress(**{**said, "losses": [(int(a), float(b)) for a, b in said["losses"]]})
            if progress.of != of:
                raise UsageError(f"{folder} holds a training of another model, file or setting.", _OTHER)
            for name, some in groups.items():
                for n, tensor in enumerate(some):
                    tensor.data.copy_(file.get_tensor(f"{name}.{n}"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"the training in {folder} is damaged: {str(error)[:120]}.", _OTHER) from error
    return progress
