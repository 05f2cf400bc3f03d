"""Opens a model by its name, as every command and the Python API do it. torch is imported where a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warpcortex_cli.errors import WarpError
from warpcortex_cli.phases import phase
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.process import importing

if TYPE_CHECKING:
    from warpcortex_cli.prism.prism import Prism
    from warpcortex_cli.prism.source import ModelSource
    from warpcortex_cli.profile import Profile

AUTO = "auto"


def choose(model: str | None, profile: str | None) -> tuple[ModelSource, Profile]:
    """Model and profile by their names. Nothing is loaded, so mistakes show at once.

    Args:
        model: None takes the profile's.
        profile: a name, a path, or None (or "auto"): pocket for the model pocket, else assistant.

    Raises:
        UsageError: there is no such profile, or it has mistakes.
        ModelError: the model is not on this machine.
    """
    from warpcortex_cli.prism.source import resolve_model
    from warpcortex_cli.profile import load_profile

    if profile is None or profile == AUTO:
        source = resolve_model(model)
        return source, load_profile("pocket" if source.kind == "pocket" else "assistant")
    settings = load_profile(profile)
    return resolve_model(model, settings.model), settings


def loaded(source: ModelSource, options: LoadOptions) -> Prism:
    """Loads the model. torch and transformers take seconds to import, so only here, and as little as possible.

    Raises:
        ModelError: it cannot be served.
        MemoryLimitError: it does not fit.
        RunError: nothing can be compiled here.
    """
    from warpcortex_cli.prism.lean import lean

    def load() -> Prism:
        with importing(), phase("importing transformers"):
            from warpcortex_cli.prism.prism import Prism
            from warpcortex_cli.probes.memory import keep

        prism = Prism.opened(source, options)
        keep()
        return prism

    if options.compiled:
        return load()
    with lean() as found:
        try:
            return load()
        except (ImportError, AttributeError, WarpError):
            if not found.missed:
                raise
    return load()  # again, with everything that transformers imports
