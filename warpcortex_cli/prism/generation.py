"""Generation settings in a model's files: how its authors choose tokens."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from warpcortex_cli.profile import Sampling

_TOP_K = 50  # transformers' default, if a file asks for sampling without it


def own_sampling(generation_config: Any) -> Sampling:
    """The settings of `generation_config.json` or a GGUF file; greedy if it does not ask for sampling.

    Settings out of range are ignored.
    """
    asked = {name: getattr(generation_config, name, None) for name in Sampling.model_fields}
    valid = {name: value for name, value in asked.items() if value is not None and _is_valid(name, value)}
    if getattr(generation_config, "do_sample", None):
        return Sampling.model_validate({"temperature": 1.0, "top_k": _TOP_K, **valid}, strict=False)
    return Sampling(temperature=0.0, repetition_penalty=valid.get("repetition_penalty"))


def own_stops(generation_config: Any) -> tuple[str, ...]:
    """Stop texts; names of control tokens may be among them."""
    found = getattr(generation_config, "stop_strings", None) or ()
    return tuple(text for text in ([found] if isinstance(found, str) else found) if isinstance(text, str) and text)


def _is_valid(name: str, value: Any) -> bool:
    try:
        Sampling.model_validate({name: value}, strict=False)
    except ValidationError:
        return False
    return True
