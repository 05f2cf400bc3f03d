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
    assert any(landmarks and focus for *_, landmarks, focus in streams) or way != "plain"
    assert all((past > 0) == ("past" in way or way == "tokens only") for *_, past in there)
