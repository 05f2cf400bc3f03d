"""What a model's hidden states are like in general: measured once and kept, for a Gate that has seen little yet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from platformdirs import user_data_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_VERSION = "1"


@dataclass(frozen=True)
class Calibration:
    """Centring and threshold of one model.

    Attributes:
        mean, variance: of last hidden states over many Rivers, [hidden_size], fp32.
        null_mean, null_spread: of the cosines of unrelated pairs.
        threshold: what separates good thoughts from bad ones best.
        area: under the ROC curve of its score, relevant thoughts against irrelevant and garbled ones.
        thoughts: how many were compared for it.
    """

    mean: Tensor
    variance: Tensor
    null_mean: float
    null_spread: float
    threshold: float
    area: float
    thoughts: int

    def save(self, path: Path) -> None:
        """Writes it, creating folders.

        Raises:
            OSError: that is not possible.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = {k: v for k, v in vars(self).items() if not isinstance(v, Tensor)}
        temporary = path.with_suffix(".tmp")
        tensors = {"mean": self.mean.cpu().contiguous(), "variance": self.variance.cpu().contiguous()}
        temporary.write_bytes(save(tensors, {"version": _VERSION, "figures": json.dumps(figures)}))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Calibration | None:
        """What `save` wrote; None if there is no such file.

        Raises:
            ValueError: it is damaged, or of another version.
        """
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                told = file.metadata() or {}
                if told.get("version") != _VERSION:
                    raise ValueError("it is of another version")
                tensors = {name: file.get_tensor(name).to(torch.float32) for name in ("mean", "variance")}
            return cls(**tensors, **json.loads(told["figures"]))
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise ValueError(str(error).splitlines()[0]) from error


def calibration_path(fingerprint: str) -> Path:
    """Where the calibration of a model is kept."""
    return user_data_path("warpcortex", appauthor=False) / "gates" / f"{fingerprint}.safetensors"
