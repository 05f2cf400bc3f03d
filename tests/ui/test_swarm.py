"""How far a swarm is, as text and as a panel."""

from __future__ import annotations

import io
from collections import Counter

from rich.console import Console

from warpcortex_cli.ui.swarm import Pace, SwarmPanel


def test_speed_and_time_left_are_those_of_the_last_minute() -> None:
    pace = Pace(total=1000, done=100)
    assert str(pace) == "100 of 1,000 thoughts" and pace.left is None
    pace.note(0.0, 100)
    pace.note(50.0, 150)
    assert str(pace) == "150 of 1,000 thoughts, 1 a second, 14 min left"
    pace.note(100.0, 650)  # what was seen at the beginning is too old by now
    assert (pace.rate, pace.left) == (10.0, 35.0)


def test_the_panel_says_how_many_ended_and_how_unless_there_is_no_room() -> None:
    def drawn(height: int) -> str:
        console = Console(file=io.StringIO(), width=100, height=height)
        panel = SwarmPanel(console, Pace(40, 30), list, Counter(injected=28, failed=2))
        console.print(panel.panel(console.width, height))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    assert "30 of 40 thoughts" in drawn(40) and "28 injected" in drawn(40) and "2 failed" in drawn(40)
    assert "30 of 40 thoughts" in drawn(5) and drawn(5).count("\n") == 1
