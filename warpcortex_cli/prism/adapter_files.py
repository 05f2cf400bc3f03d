"""LoRA adapters as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors` in a folder.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021: a linear layer W gives W x + scale * B (A x),
where A [rank, inputs] and B [outputs, rank] are the adapter's. Imports no torch and reads no weights.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism.source import find_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.lora_(?:(?P<part>[AB])\.weight|embedding_(?P<of_table>[AB]))")
_COPY = re.compile(r"(?P<module>.+)\.base_layer\.weight")  # of a head or an embedding: PEFT saves the model's own, too
SAVE_AGAIN = "Save it again with PEFT's save_pretrained."
SHIPPED = Path(__file__).parents[1] / "adapters"  # those inside the package
BASE = "warpcortex_base"  # in the metadata of the weights: `base_mark` of the model that it was made for


class Halves(NamedTuple):
    """Shapes of A [rank, inputs] and B [outputs, rank], and whether inputs are tokens: then A is a table of them."""

    a: tuple[int, int]
    b: tuple[int, int]
    table: bool

    def key(self, module: str, part: str) -> str:
        """The name of A's or B's weights in the file."""
        return f"{PREFIX}{module}.lora_{f'embedding_{part}' if self.table else f'{part}.weight'}"


class Config(BaseModel):
    """The relevant keys of adapter_config.json; `r` and `lora_alpha` as in PEFT's LoraConfig."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    peft_type: str
    base_model_name_or_path: str | None = None
    r: Annotated[int, Field(ge=1)] = 8
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)] = 8.0
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    lora_bias: bool = False
    modules_to_save: list[str] | None = None
    alpha_pattern: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}

    def scale(self, module: str, rank: int) -> float:
        """The factor of B (A x) in a module: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
        alpha = next((a for name, a in self.alpha_pattern.items() if _is_named(name, module)), self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def find_adapter(spec: str) -> Path:
    """The folder of an adapter: a path, a name inside the package, or org/name in the Hugging Face cache.

    Downloads nothing.

    Raises:
        ModelError: it is not on this machine, or holds no adapter that can be read.
    """
    folder = find_folder(spec, CONFIG)
    if folder is None and spec in shipped():
        folder = SHIPPED / spec
    if folder is None:
        raise ModelError(
            f"there is no adapter {spec!r}.", f"Give a folder with {CONFIG}, or org/name from the Hugging Face cache."
        )
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{spec} is no adapter: it holds no {CONFIG}.", "Give the folder that PEFT's save_pretrained wrote."
        )
    if not (folder / WEIGHTS).is_file():
        if (folder / _PICKLED).exists():
            raise ModelError(f"{spec} holds pickled weights, which are never loaded.", SAVE_AGAIN)
        raise ModelError(f"{spec} is incomplete: it holds no {WEIGHTS}.", SAVE_AGAIN)
    return folder


def shipped() -> list[str]:
    """The names of the adapters inside the package."""
    return sorted(config.parent.name for config in SHIPPED.glob(f"*/{CONFIG}"))


def base_of(folder: Path, name: str) -> str | None:
    """The mark of the model that an adapter was made for; None if it has none, as those of PEFT.

    Raises:
        ModelError: its file is damaged.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            return (file.metadata() or {}).get(BASE)
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{WEIGHTS} of {name} is damaged: {error}", "Copy it again.") from error


def read_config(folder: Path, name: str) -> Config:
    """Reads the configuration. Raises ModelError: it is damaged, or the kind of adapter is not supported."""
    try:
        config = Config.model_validate_json((folder / CONFIG).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        why = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise ModelError(f"{CONFIG} of {name} cannot be read: {why}.", SAVE_AGAIN) from None
    except OSError as error:
        raise ModelError(f"{CONFIG} of {name} cannot be read: {error.strerror}.", SAVE_AGAIN) from None
    for refused, what in (
        (config.peft_type.upper() != "LORA", f"of the kind {config.peft_type}"),
        (config.use_dora, "a DoRA"),
        (config.fan_in_fan_out, "for transposed layers (fan_in_fan_out)"),
        (config.bias != "none" or config.lora_bias, "one with biases"),
        (bool(config.modules_to_save), "one that brings whole modules (modules_to_save)"),
    ):
        if refused:
            raise ModelError(f"{name} is an adapter {what}, which is not supported.", "Only LoRA of linear layers is.")
    return config


def halves(folder: Path, name: str) -> dict[str, Halves]:
    """Shapes of A and B of each module that an adapter changes, by the header of its file alone.

    Raises:
        ModelError: the file is damaged, or holds something else.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{WEIGHTS} of {name} is damaged: {error}", "Copy it again.") from error
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    tables, copies = set[str](), dict[str, tuple[int, ...]]()
    for key, shape in found.items():
        name_in_model = key.removeprefix(PREFIX) if key.startswith(PREFIX) else ""
        match, copy = _PART.fullmatch(name_in_model), _COPY.fullmatch(name_in_model)
        if (match is None and copy is None) or len(shape) != 2:
            raise ModelError(
                f"{name} holds {key}, which is not supported.", "Only LoRA of linear layers and of the embedding is."
            )
        if match is None:
            assert copy is not None
            copies[copy["module"]] = shape
            continue
        parts.setdefault(match["module"], {})[match["part"] or match["of_table"]] = shape
        if match["of_table"]:
            tables.add(match["module"])
    if not parts:
        raise ModelError(f"{name} holds no weights.", SAVE_AGAIN)
    for module, given in parts.items():
        if given.keys() != {"A", "B"}:
            raise ModelError(f"{name} is incomplete: of {module} it holds one of A and B.", SAVE_AGAIN)
    for module, shape in copies.items():
        if module not in parts or sorted(shape) != sorted((parts[module]["A"][1], parts[module]["B"][0])):
            raise ModelError(f"{name} brings its own {module}, which is not served.", "LoRA of it is.")
    return {
        module: Halves((given["A"][0], given["A"][1]), (given["B"][0], given["B"][1]), module in tables)
        for module, given in parts.items()
    }


def _is_named(pattern: str, module: str) -> bool:
    """As PEFT matches the keys of rank_pattern and alpha_pattern."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return False


@dataclass(frozen=True)
class Described:
    """An adapter as its files describe it.

    Attributes:
        name: as --adapter takes it.
        base: the model that it was made for, if it says so.
        bytes: of its weights' file.
        ranks: each that occurs, ascending.
        modules: the linear layers that it changes, the head and the embedding among them.
        reason: why no model can be served with it, or None.
    """

    name: str
    path: Path
    base: str | None
    bytes: int
    ranks: list[int]
    modules: list[str]
    reason: str | None = None

    @property
    def kinds(self) -> Counter[str]:
        """Counts of each kind of layer, such as q_proj."""
        return Counter(module.rpartition(".")[2] for module in self.modules)


def described(folder: Path, name: str) -> Described:
    """Describes an adapter. Raises ModelError: it is damaged, or not supported with any model."""
    config, found = read_config(folder, name), halves(folder, name)
    ranks = sorted({of.a[0] for of in found.values()})
    size = (folder / WEIGHTS).stat().st_size
    return Described(name, folder, config.base_model_name_or_path, size, ranks, sorted(found))


def adapters(folders: Iterable[Path]) -> list[Described]:
    """All adapters in these folders, in their direct subfolders, in the package, and in the Hugging Face cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found: dict[Path, str] = {}
    for folder in folders:
        for config in (folder / CONFIG, *sorted(folder.glob(f"*/{CONFIG}"))):
            if config.is_file():
                found.setdefault(config.parent.resolve(), str(config.parent))
    for name in shipped():
        found.setdefault((SHIPPED / name).resolve(), name)
    for config in sorted(Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{CONFIG}")):
        name = config.parts[-4].removeprefix("models--").replace("--", "/", 1)
        found.setdefault(config.parent.resolve(), name)
    return [_or_why_not(path, name) for path, name in found.items()]


def _or_why_not(path: Path, name: str) -> Described:
    try:
        return described(find_adapter(str(path)), name)
    except ModelError as error:
        return Described(name, path, None, 0, [], [], str(error))
