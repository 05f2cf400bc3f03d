"""What a model's files say of generation: how its authors choose its tokens."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from warpcortex_cli.profile import Sampling

_TOP_K = 50  # transformers' own, where a file asks for sampling and does not name it


def own_sampling(generation_config: Any) -> Sampling:
    """The settings of `generation_config.json`, or a GGUF file's; greedy where it does not ask for sampling.

    A file is somebody else's: a setting that is out of its range is left out.
    """
    asked = {name: getattr(generation_config, name, None) for name in Sampling.model_fields}
    valid = {name: value for name, value in asked.items() if value is not None and _is_valid(name, value)}
    if getattr(generation_config, "do_sample", None):
        return Sampling.model_validate({"temperature": 1.0, "top_k": _TOP_K, **valid}, strict=False)
    return Sampling(temperature=0.0, repetition_penalty=valid.get("repetition_penalty"))


def own_stops(generation_config: Any) -> tuple[str, ...]:
    """Texts that end a reply; those of control tokens may be among them."""
    found = getattr(generation_config, "stop_strings", None) or ()
    return tuple(text for text in ([found] if isinstance(found, str) else found) if isinstance(text, str) and text)


def _is_valid(name: str, value: Any) -> bool:
    try:
        Sampling.model_validate({name: value}, strict=False)
    except ValidationError:
        return False
    return True
