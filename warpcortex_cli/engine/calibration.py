"""A model's Gate calibration: how unrelated thoughts score on it, measured once and kept in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_path

if TYPE_CHECKING:
    from warpcortex_cli.prism.prism import Prism

_VERSION = 2


@dataclass(frozen=True)
class Calibration:
    """Centring and threshold of one model.

    Attributes:
        centre, spread: mean and deviation of what unrelated thoughts gain by the River, nats a token.
        threshold: the score that separates good thoughts from bad ones best.
        area: under the ROC curve of the score, relevant thoughts against irrelevant and garbled ones.
        thoughts: how many were compared for it.
    """

    centre: float
    spread: float
    threshold: float
    area: float
    thoughts: int

    def save(self, path: Path) -> None:
        """Writes it to a file and creates the folders.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"version": _VERSION, **asdict(self)}) + "\n", encoding="utf-8")
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
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("version") != _VERSION:
                raise ValueError("it is of another version")
            centre, spread, threshold, area = (float(found[n]) for n in ("centre", "spread", "threshold", "area"))
            return cls(centre, spread, threshold, area, int(found["thoughts"]))
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(str(error).splitlines()[0]) from error


def calibration_folder() -> Path:
    """Where calibrations are kept; it is made with the first one."""
    return user_data_path("warpcortex", appauthor=False) / "gates"


def calibration_path(fingerprint: str) -> Path:
    """Where the calibration of a model is kept."""
    return calibration_folder() / f"{fingerprint}.json"


def path_for(prism: Prism) -> Path:
    """Where a model's calibration is kept."""
    from warpcortex_cli.prism.fingerprint import fingerprint

    return calibration_path(fingerprint(prism))


def stored(prism: Prism) -> Calibration | None:
    """A model's stored calibration, or None.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    if not calibration_folder().is_dir():  # nothing was ever calibrated, so no fingerprint of the weights is needed
        return None
    return Calibration.load(path_for(prism))
