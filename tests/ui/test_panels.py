from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from tests.ui.fake_session import ESCAPES, NO_PAST, stream, view
from warpcortex_cli.memory.store import Tier
from warpcortex_cli.ui.panels import Scene, Usage, interesting, live_panels, size, summary, thoughts_list

CROWD = [
    *(stream(n) for n in range(1, 83)),
    *(stream(n, "queued") for n in range(83, 95)),
    stream(95, "injected", gate_score=0.83),
    stream(96, "rejected", gate_score=0.1),
    stream(97, "gating"),
]


def draw(width: int, height: int, scene: Scene) -> list[str]:
    console = Console(width=width, height=height, file=StringIO(), force_terminal=True, no_color=True)
    return [
        "".join(s.text for s in line) for line in console.render_lines(live_panels(scene, width, height), pad=False)
    ]


@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (72, 18), (100, 30), (200, 60), (60, 24), (80, 10), (20, 5), (2, 2)]
)
@pytest.mark.parametrize("count", [0, 1, 97])
def test_fits_every_terminal(width: int, height: int, count: int) -> None:
    streams = CROWD[-count:] if count else []
    lines = draw(width, height, Scene(view(streams), streams, Usage("RSS", 812 << 20, 38 << 20), True, 0, 0))
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)


def test_a_hundred_agents_at_80_columns() -> None:
    text = "\n".join(draw(80, 24, Scene(view(CROWD), CROWD, Usage("RSS", 812 << 20, 38 << 20), True, 0, 0)))
    for part in [
        "97 recall",
        "gating",
        "0.83",
        "0.10",
        "+89 more: 12 queued, 77 thinking",
        "v3",
        "64 of 1,204 tokens",
        "18.8x",
        "3 passed  1 rejected",
        "threshold 0.50",
        "RSS",
        "812.0 MiB",
        "KV 384.0 KiB/agent",
        "64+48",
    ]:
        assert part in text


def test_a_parked_stream_is_shown_with_what_is_kept_of_it() -> None:
    """It is neither at work nor in the queue; its blocks are in the tiers, even where the River has none there."""
    some = [*CROWD[:20], stream(99, "queued"), stream(98, "parked", kv_bytes=51 << 10)]
    shown, more = interesting(some, 21)
    assert shown[-1].id == 98 and more == "+1 more: 1 queued"
    tiers = {"hot": Tier(0, 0), "warm": Tier(3, 51 << 10), "cold": Tier(0, 0)}
    now = view(some, memory=replace(NO_PAST, tiers=tiers))
    text = "\n".join(draw(120, 60, Scene(now, some[-2:], None, True, 0, 0)))
    assert "parked" in text and "51.0 KiB" in text and "1 queued, 1 parked" in text
    assert "0 hot 3 warm 0 cold" in text and "0 agents alive" in text


def test_few_streams_have_no_more_line() -> None:
    assert interesting(CROWD[:3], 8) == (CROWD[:3], "")
    text = "\n".join(draw(80, 24, Scene(view(CROWD[:3]), CROWD[:3], None, False, 0, 0)))
    assert "more:" not in text and "not measured here" in text and "injection off" in text


def test_who_waits_at_the_gate_has_given_its_kv_back() -> None:
    some = [stream(1, kv_bytes=2 << 20), stream(2, kv_bytes=4 << 20), stream(3, "gating", kv_bytes=90 << 20)]
    text = "\n".join(draw(100, 30, Scene(view(some), some, Usage("RSS", 812 << 20, 30 << 20), True, 0, 0)))
    assert "KV 3.0 MiB/agent" in text and "3 agents alive" in text


def test_text_of_models_is_harmless() -> None:
    bad = [
        stream(
            1,
            "injected",
            role="r[/]",
            task="[red]t[/red]" + ESCAPES,
            thought="[b]x" + ESCAPES,
            gate_reason="\x1b[2Jok",
        )
    ]
    text = "\n".join(draw(80, 24, Scene(view(bad), bad, None, True, 0, 0)))
    assert "[red]t[/red]" in text and "\x1b" not in text and "\x9b" not in text
    console = Console(width=80, file=StringIO(), no_color=True)
    console.print(thoughts_list(bad))
    assert "[b]x" in console.file.getvalue() and "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_no_synapse_yet() -> None:
    some = CROWD[:2]
    assert "not taken yet" in "\n".join(draw(80, 24, Scene(view(some, synapse=None), some, None, True, 0, 0)))


def test_words() -> None:
    assert [size(n) for n in (0, 512, 12_288, 3 << 20, 5 << 30)] == [
        "0 B",
        "512 B",
        "12.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]
    reading = draw(80, 24, Scene(view(river_state="prefill"), [], None, True, 512, 1204))
    assert reading == ["River reads 512/1,204 tokens"]
    scene = Scene(view(CROWD[-3:]), CROWD[-3:], None, True, 0, 0)
    line = summary(scene, "interrupted", 2.0, 41).plain
    assert line == "stopped · 41 tokens in 2.0 s (20.5/s) · 3 Streams: 1 gating, 1 injected, 1 reje…"
    assert summary(scene, "stop", 2.0, 41, 200).plain.endswith("Synapse 64 of 1,204 · /thoughts")
