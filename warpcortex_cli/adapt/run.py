"""The steps of a training, from a profile and a file of conversations to a folder with an adapter."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from warpcortex_cli.adapt.conversations import Conversation, Example, Reading, examples_of
from warpcortex_cli.adapt.train import Training
from warpcortex_cli.errors import RunError, UsageError
from warpcortex_cli.prism.adapter_files import BASE, WEIGHTS
from warpcortex_cli.prism.fingerprint import base_mark, of_model
from warpcortex_cli.prism.load import choose_device, loading
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.source import ModelSource
from warpcortex_cli.profile import Profile, Role

_MOST_HELD_OUT = 200


@dataclass(frozen=True)
class Learning:
    """The examples of a file. `left_out`: the number of conversations that are too long."""

    learnt: list[Example]
    held_out: list[Example]
    left_out: int


def role_of(profile: Profile, name: str) -> Role | None:
    """The role of that name, which must work with the model; None for river. Raises UsageError if there is none."""
    if name == "river":
        return None
    role = next((role for role in profile.roles if role.name == name), None)
    if role is None or role.work != "model":
        names = ", ".join(["river", *(r.name for r in profile.roles if r.work == "model")])
        why = "works without the model" if role else "is not in it"
        raise UsageError(f"the role {name} of the profile {profile.name} {why}.", f"It can be one of {names}.")
    return role


def prepared(said: Sequence[Conversation], reading: Reading, longest: int, share: float, seed: int) -> Learning:
    """Examples to learn from, and a share of them held out.

    Raises:
        UsageError: none is short enough, or none is left to learn from.
    """
    found = [one for one in examples_of(reading, said, longest) if one is not None]
    if not found:
        raise UsageError(f"every conversation is longer than {longest} tokens.", "Give shorter ones, or --longest.")
    order = list(range(len(found)))
    random.Random(f"held out {seed}").shuffle(order)
    aside = set(order[: min(_MOST_HELD_OUT, round(share * len(found)))])
    learnt = [one for n, one in enumerate(found) if n not in aside]
    if not learnt:
        raise UsageError("nothing is left to learn from.", "Give more conversations, or a smaller --held-out.")
    return Learning(learnt, [one for n, one in enumerate(found) if n in aside], len(said) - len(found))


def faster_type(device: torch.device) -> str:
    """The faster of bf16 and fp32 for products on this CPU; auto on other devices."""
    if device.type != "cpu":
        return "auto"
    seconds = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.ones(256, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        times = []
        for _ in range(6):
            began = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - began)
        seconds[name] = min(times)
    return min(seconds, key=lambda name: seconds[name])


def load_to_train(source: ModelSource, options: LoadOptions) -> tuple[Any, Any, str]:
    """A model with unpacked weights, its tokenizer, and the name of its dtype."""
    dtype = faster_type(choose_device(options.device)) if options.dtype == "auto" else options.dtype
    model, tokenizer = loading(source, LoadOptions(options.device, dtype, "none"))
    # torch's fused attention has a slow backward pass on CPUs: a quarter of a whole step with SmolLM2.
    model.set_attn_implementation("eager" if model.device.type == "cpu" else "sdpa")
    return model, tokenizer.result(), dtype


def identity(model: Any, examples: Sequence[Example], settings: Any, name: str) -> str:
    """Identifies model, data and settings. Only how long it trains may change when it resumes."""
    digest = hashlib.sha256(of_model(model).encode())
    for one in examples:
        digest.update(repr((one.ids, one.learnt)).encode())
    what = {k: v for k, v in asdict(settings).items() if k not in ("epochs", "minutes", "checks", "patience")}
    return json.dumps({"adapter": name, "of": digest.hexdigest()[:32], **what}, sort_keys=True)


def write_adapter(training: Training, folder: Path, base: str, about: str) -> Path:
    """Writes the best weights in PEFT's format, in bf16, with a model card.

    Args:
        base: the name of the base model.
        about: the card.

    Raises:
        RunError: the folder cannot be written.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    training.use_best()
    found = get_peft_model_state_dict(training.model, save_embedding_layers=False)
    half = folder / f"{WEIGHTS}.half"
    config = training.config
    config.base_model_name_or_path, config.inference_mode = base, True
    try:
        values = {name: t.to(torch.bfloat16).cpu().contiguous() for name, t in found.items()}
        save_file(values, half, metadata={"format": "pt", BASE: base_mark(training.base)})
        config.save_pretrained(str(folder))
        (folder / "README.md").write_text(about, encoding="utf-8")
        half.replace(folder / WEIGHTS)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror}.", "Make room there, or name another --out."
        ) from error
    return folder / WEIGHTS


def card(training: Training, base: str, profile: str, role: str, tokens: int) -> str:
    """A model card: the base model, the training data and the held-out loss.

    Args:
        tokens: learnt in each epoch.
    """
    settings, progress = training.settings, training.progress
    rows = "".join(f"| {step:,} | {loss:.4f} |\n" for step, loss in progress.losses)
    table = f"\n| step | held out, nats a token |\n|---|---|\n{rows}" if rows else ""
    targets = settings.targets if isinstance(settings.targets, str) else ", ".join(settings.targets)
    whose = "River" if role == "river" else f"role {role}"
    return f"""# A LoRA adapter for the {whose} of the profile {profile}, on {base}

Made with `warpcortex adapt`.

- rank {settings.rank} on {targets}, {training.parameters:,} parameters in bf16
- learnt from {training.conversations:,} conversations with {tokens:,} tokens to learn; {training.held_out} held out
- {progress.step:,} steps of at most {settings.batch_tokens:,} tokens, rate {settings.rate:g}, seed {settings.seed}; the
  weights are those of step {progress.best:,}
{table}"""
