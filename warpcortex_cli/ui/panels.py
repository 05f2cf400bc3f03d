"""Live panels and tables of what the engine is doing, drawn from a `SessionView`.

Model text goes through `one_line` into `rich.text.Text`, which does not parse markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from warpcortex_cli.ui.safe import one_line

if TYPE_CHECKING:
    from warpcortex_cli.engine.view import SessionView, StreamView

LIVE = ("gating", "thinking", "parked", "queued")
STYLES = {
    "queued": "dim",
    "thinking": "cyan",
    "parked": "blue",
    "gating": "yellow",
    "injected": "green",
    "rejected": "red",
    "expired": "magenta",
    "cancelled": "dim",
    "failed": "bold red",
}
FULL_WIDTH, FULL_HEIGHT = 72, 18  # below this the panels shrink to one line
_AROUND_ROWS = 16  # lines of a full display that are no Stream rows: text, frames, header, lower panels, spare
_JUDGED_SHOWN = 3


@dataclass(frozen=True)
class Usage:
    """The program's memory, its source ("NVML", "RSS"), and by how much it has `grown` during this reply."""

    source: str
    bytes: int
    grown: int


_ENDS = {"interrupted": "stopped", "length": "cut at the token budget", "loop": "stopped: it repeated itself"}


def size(count: float) -> str:
    """Bytes in readable units: `512 B`, `12.0 KiB`, `3.4 MiB`, `1.2 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def interesting(streams: Sequence[StreamView], limit: int) -> tuple[list[StreamView], str]:
    """The Streams to show, and a line about the others (`""` if there are none).

    In order: those at the Gate, a few judged last, so that scores are seen, those thinking, those that ended earlier,
    the parked, the queued.
    """
    ended = [s.id for s in streams if s.state not in LIVE][-_JUDGED_SHOWN:]
    rank = {"gating": 0, "thinking": 2, "parked": 4, "queued": 5}

    def place(stream: StreamView) -> tuple[int, int]:
        if stream.state in rank:
            return rank[stream.state], stream.id
        return 1 if stream.id in ended else 3, -stream.id

    order = sorted(streams, key=place)
    shown, rest = order[:limit], order[limit:]
    if not rest:
        return shown, ""
    return shown, f"+{len(rest)} more: {counts(rest)}"


def counts(streams: Sequence[StreamView], forgotten: Mapping[str, int] | None = None) -> str:
    """`80 thinking, 12 queued`, in the order of a Stream's life. `forgotten`: counts of unlisted Streams."""
    found = Counter(s.state for s in streams) + Counter(forgotten or {})
    return ", ".join(f"{found[state]} {state}" for state in sorted(found, key=list(STYLES).index))


def streams_table(
    streams: Sequence[StreamView], more: str = "", title: str = "", reasons: bool = False
) -> RenderableType:
    """One row a Stream: id, role, task, state, tokens, Gate score, landmarks (and focus), seconds, KV.

    Args:
        reasons: also show what started each.
    """
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("role", no_wrap=True, max_width=10)
    table.add_column("task", no_wrap=True, ratio=1, overflow="ellipsis")
    if reasons:
        table.add_column("started by", no_wrap=True)
    for name in ("state", "tok", "gate", "marks", "KV"):
        table.add_column(name, no_wrap=True, justify="left" if name == "state" else "right")
    for stream in streams:
        marks = f"{stream.landmarks}+{stream.focus}" if stream.focus else str(stream.landmarks)
        score = "" if stream.gate_score is None else f"{stream.gate_score:.2f}"
        table.add_row(
            str(stream.id),
            Text(one_line(stream.role, 10)),
            Text(one_line(_task(stream))),
            *([_REASONS[stream.starts]] if reasons else []),
            Text(stream.state, style=STYLES.get(stream.state, "")),
            str(stream.tokens),
            score,
            marks if stream.landmarks or stream.focus else "-",
            size(stream.kv_bytes),
        )
    body: list[RenderableType] = [table]
    if more:
        body.append(Text(more, style="dim", no_wrap=True, overflow="ellipsis"))
    heading = Text.assemble(("Streams", "bold"), ("  " + title if title else "", "dim"))
    return Panel(Group(*body), title=heading, title_align="left", box=box.ROUNDED, border_style="dim", padding=(0, 1))


_REASONS = {"trigger": "its text", "turn": "your words", "sentence": "a sentence", "probe": "a probe"}


def _task(stream: StreamView) -> str:
    """The Stream's task and, for a tool, its result."""
    return f"{stream.task} \u2192 {stream.thought}" if stream.work != "model" and stream.thought else stream.task


def _fact_panel(name: str, detail: str, lines: Sequence[str]) -> Panel:
    title = Text.assemble((name, "bold"), (" " + detail if detail else "", "dim"))
    body = Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))
    return Panel(body, title=title, title_align="left", box=box.ROUNDED, border_style="dim", padding=(0, 1))


def synapse_panel(view: SessionView) -> Panel:
    """Version, k of L, compression, bytes."""
    synapse = view.synapse
    kv = f"River KV {size(view.river_kv_bytes)}"
    if synapse is None:
        return _fact_panel("Synapse", "", ["not taken yet", f"L = {view.river_positions:,} tokens", "", kv])
    ratio = synapse.context / max(synapse.landmarks, 1)
    marks = f"{synapse.landmarks:,} of {synapse.context:,} tokens"
    return _fact_panel(
        "Synapse",
        f"v{synapse.version}",
        [marks, f"{ratio:.1f}x smaller", f"{size(synapse.bytes)} shared", kv],
    )


def gate_panel(view: SessionView, injecting: bool = True) -> Panel:
    """Counts, threshold and mode, and the injected thoughts."""
    gate = view.gate
    threshold = "lets all pass" if gate.mode == "off" else f"threshold {gate.threshold:.2f}"
    asides = f"{view.asides} injected, {view.aside_tokens} tok"
    state = "injection on" if injecting else "injection off"
    return _fact_panel("Gate", gate.mode, [f"{gate.passed} passed  {gate.rejected} rejected", threshold, asides, state])


def memory_panel(streams: Sequence[StreamView], usage: Usage | None) -> Panel:
    """The program's measured memory, its growth per live Stream, and the mean KV bytes counted for each."""
    alive = [s for s in streams if s.state in ("thinking", "gating")]
    held = [s.kv_bytes for s in alive if s.state == "thinking"]  # at the Gate a Stream has no tail any more
    counted = f"KV {size(sum(held) / len(held))}/agent" if held else "KV -"
    agents = f"{len(alive)} agent{'' if len(alive) == 1 else 's'} alive"
    if usage is None:
        return _fact_panel("Memory", "counted", ["not measured here", "", counted, agents])
    grown = f"grown {size(usage.grown / len(alive))}/agent" if alive else f"grown {size(usage.grown)}"
    return _fact_panel("Memory", usage.source, [f"{size(usage.bytes)} in all", grown, counted, agents])


def river_words(view: SessionView, done: int, total: int) -> str:
    """What the River is doing, in a few words."""
    if view.river_state in ("reading", "prefill"):
        return f"River reads {done:,}/{total:,} tokens" if total else "River reads"
    waits = dict.fromkeys(("waiting", "awaiting", "held"), "waits for its Streams")
    doing = {**waits, "idle": "is done"}
    words = f"River {doing.get(view.river_state, 'writes')}, {view.river_tokens} tokens"
    if any(tier.blocks for tier in view.memory.tiers.values()):
        words += " \u00b7 blocks " + " ".join(f"{t.blocks:,} {name}" for name, t in view.memory.tiers.items())
        words += f" {view.memory.bare:,} tokens only" if view.memory.bare else ""
    return words


@dataclass(frozen=True)
class Scene:
    """What one redraw of a running reply shows; `streams` are those of this reply."""

    view: SessionView
    streams: Sequence[StreamView]
    usage: Usage | None
    injecting: bool
    read: int
    to_read: int


def live_panels(scene: Scene, width: int, height: int) -> RenderableType:
    """Panels for a terminal of `width` x `height`; never taller than `height - 1` lines."""
    words = river_words(scene.view, scene.read, scene.to_read)
    rows = min(8, height - _AROUND_ROWS)
    if width < FULL_WIDTH or height < FULL_HEIGHT or not scene.streams:
        line = words + (f" \u00b7 Streams: {counts(scene.streams)}" if scene.streams else "")
        return Text(line, style="dim", no_wrap=True, overflow="ellipsis")
    shown, more = interesting(scene.streams, rows)
    facts = Table.grid(expand=True, padding=0)
    for _ in range(3):
        facts.add_column(ratio=1)
    facts.add_row(
        synapse_panel(scene.view),
        gate_panel(scene.view, scene.injecting),
        memory_panel(scene.streams, scene.usage),
    )
    return Group(streams_table(shown, more, f"{words} \u00b7 {counts(scene.streams)}"), facts)


def summary(scene: Scene, reason: str, seconds: float, tokens: int, width: int = 80) -> Text:
    """One dim line of at most `width` cells for the scrollback when a reply is over."""
    parts = [_ENDS[reason]] if reason in _ENDS else []
    speed = f" ({tokens / seconds:.1f}/s)" if seconds > 0 else ""
    parts.append(f"{tokens} tokens in {seconds:.1f} s{speed}")
    if scene.streams:
        plural = "" if len(scene.streams) == 1 else "s"
        parts.append(f"{len(scene.streams)} Stream{plural}: {counts(scene.streams)}")
        if scene.view.synapse:
            parts.append(f"Synapse {scene.view.synapse.landmarks} of {scene.view.synapse.context:,}")
        if len(" \u00b7 ".join([*parts, "/thoughts"])) <= width:
            parts.append("/thoughts")
    line = Text(" \u00b7 ".join(parts), style="dim")
    line.truncate(width, overflow="ellipsis")
    return line


def memory_table(view: SessionView) -> RenderableType:
    """The parts of the River's context in tokens, and its tiers in blocks and bytes."""
    memory = view.memory
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("", "tokens", "blocks", "bytes"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("tail, always read", f"{memory.tail:,}", "", size(view.river_kv_bytes))
    table.add_row("recalled", f"{memory.recalled:,}", "", "")
    where = {"hot": "hot, unpacked", "warm": "warm, in memory", "cold": "cold, on disk"}
    for name, tier in memory.tiers.items():
        table.add_row(where[name], "", f"{tier.blocks:,}", size(tier.bytes))
    if memory.bare:
        table.add_row("tokens only", "", f"{memory.bare:,}", "")
    table.add_row("in blocks", f"{memory.stored:,}", "", "")
    return table


def thoughts_list(thoughts: Sequence[StreamView]) -> RenderableType:
    """Every finished thought with its outcome, score and reason."""
    lines: list[RenderableType] = []
    for stream in thoughts:
        score = "" if stream.gate_score is None else f"  score {stream.gate_score:.2f}"
        head = Text.assemble(
            (f"#{stream.id} ", "dim"),
            (stream.state, STYLES.get(stream.state, "")),
            f"  {one_line(stream.role, 20)}: {one_line(stream.task, 120)}",
            (score, "dim"),
        )
        lines += [head, Text("    " + one_line(stream.thought, 400))]
        if stream.gate_reason:
            lines.append(Text("    " + one_line(stream.gate_reason, 300), style="dim"))
    return Group(*lines)
