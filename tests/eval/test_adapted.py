"""What the model's KV costs an adapter is measured against what the adapter reads itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from warpcortex_cli.bench.adapters import write_adapter
from warpcortex_cli.eval.adapted import MODEL, NOTHING, OWN, PLAIN, REREAD, SYNAPSE, Reading, measured
from warpcortex_cli.prism.prism import Prism


def test_an_adapter_that_leaves_keys_and_values_as_they_are_loses_nothing(
    make_prism: Callable[[str], Prism], tmp_path: Path
) -> None:
    prism = make_prism("qwen2")
    texts = [Reading(prism, [5 + 7 * i % 200 for i in range(48)], 24)]
    write_adapter(prism, tmp_path / "whole", rank=2, seed=1, size=0.2)
    whole = measured(prism, str(tmp_path / "whole"), texts, count=8, again=8)
    assert whole[OWN] == (0.0, 1.0)
    assert 0 < whole[MODEL][0] < whole[PLAIN][0]  # the adapter still reads by itself what is scored
    assert {SYNAPSE.format(8), REREAD.format(8), NOTHING} < whole.keys()
    last = tmp_path / "last"  # only what follows the last attention
    last.mkdir()
    (last / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    held = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    save_file(
        {k: t for k, t in held.items() if f"layers.{prism.layers - 1}.mlp" in k}, last / "adapter_model.safetensors"
    )
    after = measured(prism, str(last), texts, count=8, again=8)
    assert after[MODEL][0] < 1e-6 < after[PLAIN][0] and torch.isfinite(torch.tensor(after[NOTHING])).all()
