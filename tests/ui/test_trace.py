from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ui.fake_session import REPLY
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import GateDecided
from warpcortex_cli.ui.trace import TraceWriter


def test_every_event_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path) as trace:
        for event in REPLY:
            trace(event)
        lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(json.dumps(e.to_json())) for e in REPLY]


def test_a_score_that_is_no_number_is_null(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t") as trace:
        trace(GateDecided(id=1, thought="", passed=False, score=float("nan"), threshold=0.5, mode="raw", reason=""))
    assert json.loads((tmp_path / "t").read_text())["score"] is None


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the trace"):
        TraceWriter(tmp_path / "no" / "such" / "t")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_trace_only() -> None:
    with TraceWriter(Path("/dev/full")) as trace:
        for event in REPLY:
            trace(event)
    assert trace.failure and "ends early" in trace.failure
