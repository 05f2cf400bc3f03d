"""warpcortex: one shared model, a River and its Streams, talking in the terminal.

Importing the package is cheap: torch and transformers are imported where a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warpcortex_cli.api.cortex import Cortex

__version__ = "0.1.0"
__all__ = ["Cortex", "__version__"]


def __getattr__(name: str) -> Any:
    if name != "Cortex":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from warpcortex_cli.api.cortex import Cortex

    return Cortex
