"""The whole product on a device whose tensors do not mix with the CPU's: what a GPU would have, had one been lent."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from torch.utils import backend_registration

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices made of Python",
)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    program = [sys.executable, "-m", "tests.elsewhere.product"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert not done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_it_is_another_device(found: dict[str, Any]) -> None:
    assert found["device"] == "elsewhere:0"


@pytest.mark.parametrize("way", ["plain", "bf16", "a past", "a cold past", "tokens only", "one seat, int8"])
def test_it_answers_what_the_cpu_answers(found: dict[str, Any], way: str) -> None:
    here, there = found["ways"][way]
    assert there == here
    streams = [stream for (_, thought), _, _ in there for stream in thought]
    assert any(state == "injected" for _, _, state, *_ in streams)
    assert any(landmarks and focus for *_, landmarks, focus, _ in streams) or way != "plain"
    kept = there[-1][2]
    assert kept["dtype"] == ("torch.bfloat16" if way in ("bf16", "one seat, int8") else "torch.float32")
    tiers, bare = kept["tiers"], kept["bare"]
    if way in ("plain", "bf16", "one seat, int8"):
        assert not kept["past"] and not kept["stored"] and not any(tiers.values())
        return
    assert kept["past"] > 0
    assert list(kept["stored"]) == {"a past": ["8"], "a cold past": ["exact"], "tokens only": ["4/4"]}[way]
    assert (bare > 0) == (way == "tokens only") == (tiers["cold"] == 0)
    assert (tiers["hot"] > 1) == (way == "a past")  # where the budget of hot blocks is nothing, there is one


def test_tails_in_int8_take_half_of_bf16s_bytes(found: dict[str, Any]) -> None:
    tails = {way: [s[-1] for s in found["ways"][way][1][-1][0][1]] for way in ("bf16", "one seat, int8")}
    assert 0 < max(tails["one seat, int8"]) < 0.6 * max(tails["bf16"])
