"""Rows with different LoRA adapters in one forward give what PEFT gives for each alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism import native
from warpcortex_cli.prism.adapter_files import BASE, adapters, find_adapter
from warpcortex_cli.prism.adapters import merge, read_adapter
from warpcortex_cli.prism.fingerprint import base_mark
from warpcortex_cli.prism.fused import fused_layers
from warpcortex_cli.prism.load import load_prism_parts
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism, Row
from warpcortex_cli.prism.source import resolve_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = [5, 9, 77, 130, 12, 40]
MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="module")
def make_adapter(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """Writes an adapter with PEFT, its B not zero, and says where."""
    from transformers import AutoModelForCausalLM

    def make(architecture: str = "qwen2", seed: int = 1, **settings: Any) -> Path:
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("adapter")
        given = {"r": 4, "lora_alpha": 12, "target_modules": ALL, "task_type": "CAUSAL_LM", **settings}
        model = AutoModelForCausalLM.from_pretrained(model_folder(architecture), dtype=torch.float32)
        adapted = peft.get_peft_model(model, peft.LoraConfig(**given))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def folders(make_adapter: MakeAdapter) -> list[Path]:
    """Adapters that differ in rank, in what they change, and in how they are scaled."""
    return [
        make_adapter(seed=1),
        make_adapter(seed=2, r=8, target_modules=["q_proj", "v_proj"], use_rslora=True),
        make_adapter(
            seed=3, target_modules=["down_proj", "gate_proj"], alpha_pattern={"down_proj": 3.0}, layers_to_transform=[0]
        ),
        make_adapter(seed=4, rank_pattern={"layers.1.self_attn.q_proj": 2}, layers_to_transform=[1, 2]),
    ]


@torch.inference_mode()
def logits_of_peft(model: PreTrainedModel, folder: Path | None, tokens: list[int]) -> torch.Tensor:
    if folder is None:
        return model(torch.tensor([tokens])).logits[0]
    adapted = peft.PeftModel.from_pretrained(model, folder)
    try:
        return adapted(torch.tensor([tokens])).logits[0]
    finally:
        adapted.unload()


@pytest.fixture(scope="module")
def of_head_and_embedding(make_adapter: MakeAdapter) -> list[Path]:
    return [
        make_adapter(seed=11, target_modules=["lm_head", "v_proj"]),
        make_adapter(seed=12, target_modules=["embed_tokens"]),
    ]


@pytest.fixture
def own_prism(model_folder: Callable[[str], Path]) -> Prism:
    """A Prism that no other test has opened adapters on, for tests that count them."""
    return Prism.load(resolve_model(str(model_folder("qwen2"))), device="cpu", dtype="fp32")


def row(prism: Prism, tokens: list[int], adapter: Path | None) -> Row:
    if adapter is not None:
        prism.open_adapter(str(adapter))
    name = None if adapter is None else str(adapter)
    return Row(tokens, list(range(len(tokens))), prism.new_tail(len(tokens)), logits="all", adapter=name)


def logits(prism: Prism, rows: list[Row]) -> list[torch.Tensor]:
    found = [result.logits for result in prism.forward(rows)]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


def test_each_row_is_what_peft_gives_for_it_alone(
    make_prism: Callable[[str], Prism], reference: Callable[[str], PreTrainedModel], folders: list[Path]
) -> None:
    prism, model = make_prism("qwen2"), reference("qwen2")
    kinds: list[Path | None] = [None, *folders, folders[0], None]
    texts = [TOKENS[: 3 + n % 4] for n in range(len(kinds))]
    together = logits(prism, [row(prism, text, kind) for text, kind in zip(texts, kinds, strict=True)])
    for text, kind, mine in zip(texts, kinds, together, strict=True):
        theirs = logits_of_peft(model, kind, text)
        assert torch.allclose(mine, theirs, atol=1e-4, rtol=1e-4), kind
        assert torch.allclose(mine, logits(prism, [row(prism, text, kind)])[0], atol=1e-4, rtol=1e-4)
    plain = logits_of_peft(model, None, texts[1])
    assert not torch.allclose(together[1], plain, atol=1e-2)  # the adapter does something


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
def test_packed_weights_serve_adapters(
    kind: str, model_folder: Callable[[str], Path], folders: list[Path], reference: Callable[[str], PreTrainedModel]
) -> None:
    prism = Prism.load(resolve_model(str(model_folder("qwen2"))), device="cpu", quantize=kind)
    before = logits(prism, [row(prism, TOKENS, None)])[0]
    theirs = [logits_of_peft(reference("qwen2"), folder, TOKENS) for folder in folders]
    mixed = logits(prism, [row(prism, TOKENS, folder) for folder in folders] + [row(prism, TOKENS, None)])
    for mine, exact in zip(mixed, theirs, strict=False):
        # As near to PEFT in fp32 as the packed weights without an adapter are to the plain ones.
        rounding = (before - logits_of_peft(reference("qwen2"), None, TOKENS)).norm()
        assert float((mine - exact).norm()) < 3 * float(rounding)
    assert torch.equal(mixed[-1], before)


@pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_kernels_give_each_row_what_they_give_it_alone(
    kind: str, model_folder: Callable[[str], Path], folders: list[Path]
) -> None:
    """To the bit, whoever stands beside it: in a step of many tokens, and in one of a token each."""
    prism = Prism.load(resolve_model(str(model_folder("qwen2"))), device="cpu", quantize=kind)
    layers = len(fused_layers(prism.model.get_decoder()))
    kinds: list[Path | None] = [folders[0], None, folders[1], folders[0], folders[2], folders[3]]
    for text in (TOKENS, TOKENS[:1]):
        mixed = logits(prism, [row(prism, text, kind) for kind in kinds])
        for mine, kind in zip(mixed, kinds, strict=True):
            assert torch.equal(mine, logits(prism, [row(prism, text, kind)])[0])
    assert layers == len(fused_layers(prism.model.get_decoder())) == prism.layers


def test_a_merged_adapter_gives_the_same(
    model_folder: Callable[[str], Path],
    reference: Callable[[str], PreTrainedModel],
    folders: list[Path],
    of_head_and_embedding: list[Path],
) -> None:
    for folder in (folders[0], *of_head_and_embedding):
        model, _ = load_prism_parts(resolve_model(str(model_folder("qwen2"))), LoadOptions("cpu", "fp32"))
        merge(model, str(folder))
        with torch.inference_mode():
            found = model(torch.tensor([TOKENS])).logits[0]
        torch.testing.assert_close(found, logits_of_peft(reference("qwen2"), folder, TOKENS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_head_and_embedding_are_those_of_each_row(
    kind: str,
    model_folder: Callable[[str], Path],
    reference: Callable[[str], PreTrainedModel],
    of_head_and_embedding: list[Path],
) -> None:
    prism = Prism.load(resolve_model(str(model_folder("qwen2"))), device="cpu", dtype="fp32", quantize=kind)
    kinds: list[Path | None] = [None, *of_head_and_embedding, of_head_and_embedding[0]]
    before = logits(prism, [row(prism, TOKENS, None)])[0]
    rows = [row(prism, TOKENS, kind) for kind in kinds]
    rows[0].logits, rows[3].logits = "last", "largest"  # others of the head's tokens stand elsewhere in the step
    found = prism.forward(rows)
    rounding = float((before - logits_of_peft(reference("qwen2"), None, TOKENS)).norm())
    for kind, mine in zip(kinds[:3], found[:3], strict=True):
        exact = logits_of_peft(reference("qwen2"), kind, TOKENS)
        assert mine.logits is not None
        assert float((mine.logits - exact[-len(mine.logits) :]).norm()) < 3 * rounding + 1e-3
    exact = logits_of_peft(reference("qwen2"), kinds[3], TOKENS)[-1]
    assert found[3].largest is not None and found[3].largest[0] == pytest.approx(
        float(exact.max()), abs=rounding + 1e-3
    )
    assert found[0].logits is not None and torch.equal(found[0].logits[0], before[-1])


def test_those_used_least_recently_leave(own_prism: Prism, folders: list[Path]) -> None:
    prism = own_prism
    for folder in folders:
        prism.open_adapter(str(folder))
    size = {str(folder): prism.adapters.get(str(folder)).nbytes for folder in folders}
    for folder in folders:  # counted to the byte: A and B, in fp32
        held = load_file(folder / "adapter_model.safetensors")
        assert size[str(folder)] == sum(4 * tensor.numel() for tensor in held.values())
    assert prism.adapters.nbytes == sum(size.values())
    first, second, *_ = (str(folder) for folder in folders)
    prism.adapters.room = size[first] + size[second]
    logits(prism, [row(prism, TOKENS, folders[1]), row(prism, TOKENS, folders[0])])
    assert set(prism.adapters.held) == {first, second}
    prism.adapters.room = 0  # a step that needs more takes more
    both = logits(prism, [row(prism, TOKENS, folders[2]), row(prism, TOKENS, folders[3])])
    assert len(prism.adapters.held) == 2 and all(torch.isfinite(one).all() for one in both)


def test_of_a_thousand_adapters_only_those_in_use_take_memory(
    own_prism: Prism, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    prism, one = own_prism, make_adapter(seed=8, r=1, target_modules=["down_proj"], layers_to_transform=[1])
    names = [str(tmp_path / str(number)) for number in range(1000)]
    for name in names:
        Path(name).symlink_to(one)
    room = 8 * prism.adapters.get(names[0]).nbytes
    prism.adapters.room = room
    for name in names[1:]:
        prism.open_adapter(name)
        assert prism.adapters.nbytes <= room
    for first in (0, 4, 992):
        used = names[first : first + 8]
        rows = [Row(TOKENS, list(range(6)), prism.new_tail(6), adapter=name) for name in used]
        prism.forward(rows)
        assert set(prism.adapters.held) == set(used) and prism.adapters.nbytes == room
    prism.adapters.room = room // 8
    for name in used:
        prism.adapters.keep(name)  # for a step, which would otherwise have to read them again
    assert set(prism.adapters.held) == set(used)
    prism.forward([Row(TOKENS, list(range(6)), prism.new_tail(6), adapter=used[0])])
    prism.open_adapter(names[0])
    assert prism.adapters.held == [names[0]]


def test_the_river_of_a_step_does_not_change_with_the_adapters_of_others(
    make_prism: Callable[[str], Prism], folders: list[Path]
) -> None:
    prism = make_prism("qwen2")
    prism.open_adapter(str(folders[0]))
    alone = logits(prism, [row(prism, TOKENS, None)])[0]
    beside = logits(prism, [row(prism, TOKENS, None), row(prism, TOKENS, folders[0])])[0]
    assert torch.allclose(alone, beside, atol=1e-4)
    assert torch.equal(alone, logits(prism, [row(prism, TOKENS, None)])[0])


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    held = load_file(path)
    change(held)
    save_file(held, path)


def _first(part: str) -> Callable[[dict[str, torch.Tensor]], str]:
    return lambda held: next(key for key in held if f"lora_{part}" in key)


def _spoil_number(held: dict[str, torch.Tensor]) -> None:
    held[_first("B")(held)][0, 0] = float("nan")


def _other_shape(held: dict[str, torch.Tensor]) -> None:
    held[_first("A")(held)] = torch.zeros(4, 63)


def _huge_rank(held: dict[str, torch.Tensor]) -> None:
    a, b = _first("A")(held), _first("B")(held)
    held[a], held[b] = torch.zeros(1_000, held[a].shape[1]), torch.zeros(held[b].shape[0], 1_000)


def _lone_half(held: dict[str, torch.Tensor]) -> None:
    del held[_first("A")(held)]


def _elsewhere(held: dict[str, torch.Tensor]) -> None:
    held["base_model.model.model.norm.lora_A.weight"] = torch.zeros(4, 64)
    held["base_model.model.model.norm.lora_B.weight"] = torch.zeros(64, 4)


def _larger_vocabulary(held: dict[str, torch.Tensor]) -> None:
    held["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 64)
    held["base_model.model.lm_head.lora_B.weight"] = torch.zeros(320, 4)
    held["base_model.model.lm_head.base_layer.weight"] = torch.zeros(321, 64)


def _whole_module(held: dict[str, torch.Tensor]) -> None:
    held["base_model.model.lm_head.weight"] = torch.zeros(320, 64)


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "not finite": (lambda f: _weights(f, _spoil_number), "not finite"),
    "another shape": (lambda f: _weights(f, _other_shape), "made for another model"),
    "rank": (lambda f: _weights(f, _huge_rank), "rank 1,000"),
    "half": (lambda f: _weights(f, _lone_half), "incomplete"),
    "norm": (lambda f: _weights(f, _elsewhere), "none of the layers that are served"),
    "vocabulary": (lambda f: _weights(f, _larger_vocabulary), "its own lm_head"),
    "module": (lambda f: _weights(f, _whole_module), "is not supported"),
    "pickled": (_pickled, "pickled"),
    "cut": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x10\0\0\0"), "damaged"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "holds no adapter_config.json"),
    "no json": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
    "no number": (lambda f: _config(f, r="many"), "r: "),
    "other kind": (lambda f: _config(f, peft_type="IA3"), "of the kind IA3"),
    "dora": (lambda f: _config(f, use_dora=True), "DoRA"),
    "modules": (lambda f: _config(f, modules_to_save=["lm_head"]), "modules_to_save"),
    "biases": (lambda f: _config(f, bias="all"), "biases"),
    "infinite": (lambda f: _config(f, lora_alpha=float("inf")), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_adapter_is_refused_before_anything_changes(
    what: str, make_prism: Callable[[str], Prism], make_adapter: MakeAdapter
) -> None:
    spoil, reason = BAD[what]
    folder = make_adapter(seed=9)
    spoil(folder)
    prism = make_prism("qwen2")
    held = prism.adapters.held
    before = logits(prism, [row(prism, TOKENS, None)])[0]
    with pytest.raises(ModelError) as error:
        prism.open_adapter(str(folder))
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert prism.adapters.held == held
    assert torch.equal(before, logits(prism, [row(prism, TOKENS, None)])[0])


def test_a_refused_adapter_leaves_the_kernels_in_their_place(
    model_folder: Callable[[str], Path], make_adapter: MakeAdapter
) -> None:
    folder = make_adapter(seed=9)
    _config(folder, use_dora=True)
    prism = Prism.load(resolve_model(str(model_folder("qwen2"))), device="cpu", quantize="bf16")
    fused = fused_layers(prism.model.get_decoder())
    assert fused
    before = logits(prism, [row(prism, TOKENS, None)])[0]
    with pytest.raises(ModelError, match="DoRA"):
        prism.open_adapter(str(folder))
    assert fused_layers(prism.model.get_decoder()) == fused
    assert torch.equal(before, logits(prism, [row(prism, TOKENS, None)])[0])


def test_another_model_is_named(make_prism: Callable[[str], Prism], make_adapter: MakeAdapter) -> None:
    folder = make_adapter("smollm2", seed=5)
    with pytest.raises(ModelError, match="made for another model"):
        read_adapter(find_adapter(str(folder)), "mine", make_prism("qwen2").model)


def test_the_shipped_adapter_is_for_smollm2_alone(smollm2: Path, make_prism: Callable[[str], Prism]) -> None:
    prism = Prism.load(resolve_model("smollm2"), device="cpu")
    prism.open_adapter("smollm2-assistant")
    given = prism.encode("A box holds 12 jars. How many jars do 7 boxes hold? 12 * 7 =")
    plain, adapted = (
        logits(prism, [Row(given, list(range(len(given))), prism.new_tail(len(given)), logits="all", adapter=adapter)])
        for adapter in (None, "smollm2-assistant")
    )
    assert not torch.allclose(plain[0], adapted[0], atol=1e-2)
    with pytest.raises(ModelError, match="was made for smollm2, and qwen2 is another model"):
        make_prism("qwen2").open_adapter("smollm2-assistant")


def test_what_is_nowhere_is_said() -> None:
    for spec in ("", "nowhere/at all", "org/name", "~nobody/here"):
        with pytest.raises(ModelError, match="there is no adapter"):
            find_adapter(spec)


def test_all_that_is_in_a_folder_is_described(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    good, bad = make_adapter(seed=6, target_modules=["q_proj", "o_proj"]), make_adapter(seed=7)
    _config(bad, use_dora=True)
    (tmp_path / "good").symlink_to(good)
    (tmp_path / "bad").symlink_to(bad)
    (tmp_path / "other").mkdir()
    found = {one.name: one for one in adapters([tmp_path])}
    one, other = found[str(tmp_path / "good")], found[str(tmp_path / "bad")]
    assert one.reason is None and one.ranks == [4] and one.kinds == {"q_proj": 3, "o_proj": 3}
    assert other.reason is not None and "DoRA" in other.reason
    assert len([name for name in found if name.startswith(str(tmp_path))]) == 2


def test_one_that_names_its_model_is_refused_by_another_of_the_same_sizes(
    make_adapter: MakeAdapter, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_adapter(seed=5)
    model = AutoModelForCausalLM.from_pretrained(model_folder("qwen2"), dtype=torch.float32)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt", BASE: base_mark(model)})
    tokenizer = AutoTokenizer.from_pretrained(model_folder("qwen2"))
    Prism(model.bfloat16(), tokenizer, "same").open_adapter(str(folder))  # in another type it is the same model
    other = AutoModelForCausalLM.from_pretrained(model_folder("qwen2"), dtype=torch.float32)
    with torch.no_grad():
        other.model.norm.weight += 0.1
    with pytest.raises(ModelError, match="other is another model"):
        Prism(other, tokenizer, "other").open_adapter(str(folder))
