"""A packed forward's attention: shared segments and private tails, for all rows of a step.

Rows in the same slab with the same reads and the same number of tokens form a group: shared segments are multiplied
once for all their queries (as in Hydragen and cascade attention), their tails in one batch, and one softmax covers
both. The CPU kernels compute the groups that they support, and torch the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from warpcortex_cli.memory.room import Room
from warpcortex_cli.memory.tail import TailView
from warpcortex_cli.prism.attention import Angles, Layer, Limits
from warpcortex_cli.prism.low_rank import Adapted
from warpcortex_cli.prism.native import Attending, Layers, Readers
from warpcortex_cli.prism.rows import Row

NATIVE_TOKENS = 128  # of a row; without AMX, longer rows are faster in torch's SDPA, which blocks keys and queries
MAX_SCORES = 1 << 24  # attention scores held at once; a longer prefill splits its queries


class PackedStep:
    """One forward: its rows in packed order, and where their keys, values and queries go.

    Args:
        rows: in the caller's order.
        device: of keys and values.
        native: whether to use the CPU kernels for the groups that they support.

    Attributes:
        rows: in the order of the packed tokens.
        order: for each packed row, its index in the caller's order.
        adapted: tokens with LoRA adapters, for layers that run as kernels.

    Raises:
        ValueError: a tail is full, or two rows write to the same one.
    """

    adapted: Adapted | None = None

    def __init__(self, rows: Sequence[Row], device: torch.device, native: bool = False) -> None:
        if len({id(row.tail) for row in rows}) < len(rows):
            raise ValueError("two rows of a step write to the same tail")
        members: dict[tuple[object, ...], list[int]] = {}
        for index, row in enumerate(rows):
            members.setdefault((row.tail.slab, len(row.tokens), row.reads), []).append(index)
        self.order: list[int] = []
        self.groups: list[_Group] = []
        start = 0
        for indices in members.values():
            indices.sort(key=lambda i: rows[i].tail.slot)
            group = _Group([rows[i] for i in indices], start, device, native)
            self.order += indices
            self.groups.append(group)
            start += group.size
        self.rows = [rows[i] for i in self.order]
        self._watched: dict[int, tuple[int, int]] = {}  # packed row -> its tokens
        first = 0
        for packed, row in enumerate(self.rows):
            if row.queries:
                self._watched[packed] = (first, first + len(row.tokens))
            first += len(row.tokens)
        self._dtype = self.rows[0].tail.slab.layout.dtype
        self._known: dict[tuple[bool, int | None], tuple[Attending | None, list[_Group]]] = {}
        self._queries: dict[int, list[Tensor]] = {packed: [] for packed in self._watched}

    def through(self, layers: Layers, limits: Limits, angles: Angles, hidden: Tensor) -> Tensor | None:
        """Runs layers in one call; None if the kernels do not serve all groups, or several rows keep queries."""
        ways = [self._ways(*each) for each in limits]
        served = ways[0][0]
        if served is None or any(others for _, others in ways):
            return None
        if self._dtype != torch.bfloat16 or len(self._watched) > 1:
            return None
        packed, (start, end) = next(iter(self._watched.items()), (None, (0, 0)))
        out, queries = layers.run(hidden, *angles, served, range(start, end), self.adapted)
        if packed is not None:
            self._queries[packed].append(queries)
        return out

    def attend(self, layer: Layer) -> Tensor:
        """One layer for all groups."""
        given = layer.query.dtype
        layer = layer._replace(
            query=layer.query.to(self._dtype), key=layer.key.to(self._dtype), value=layer.value.to(self._dtype)
        )
        return self._attend(layer).to(given)

    def _attend(self, layer: Layer) -> Tensor:
        for packed, (start, end) in self._watched.items():
            self._queries[packed].append(layer.query[None, :, start:end].clone())  # compiled layers reuse buffers
        served, others = self._ways(layer.softcap, layer.window)
        if served is None:
            out = [group.attend(layer) for group in others]
            return out[0] if len(out) == 1 else torch.cat(out)
        whole = served.attend(layer.number, (layer.query, layer.key, layer.value), layer.scaling)
        for group in others:
            whole[group.start : group.start + group.size] = group.attend(layer)
        return whole

    def _ways(self, softcap: float | None, window: int | None) -> tuple[Attending | None, list[_Group]]:
        """For layers with these limits: the groups served by the kernels, and those left to torch."""
        like = softcap is None, window
        if like not in self._known:
            served = [g for g in self.groups if g.native and like[0] and not g.cut(window)]
            known = Attending([g.readers for g in served]) if served else None
            self._known[like] = known, [g for g in self.groups if g not in served]
        return self._known[like]

    def queries(self, packed: int) -> Tensor | None:
        """Rotated queries [layers, heads, tokens, head_dim] of a packed row that asked for them."""
        return torch.cat(self._queries[packed]) if packed in self._queries else None

    def commit(self) -> None:
        """Makes the written tokens part of their tails. A step that fails before this has changed nothing."""
        for row in self.rows:
            row.tail.length += len(row.tokens)


class _Group:
    """N rows of n tokens each that live in one slab and read the same segments."""

    def __init__(self, rows: list[Row], start: int, device: torch.device, native: bool) -> None:
        self.rows, self.n = len(rows), len(rows[0].tokens)
        self.start, self.size = start, self.rows * self.n
        for row in rows:
            row.tail.reserve(self.n)
        self.slab = rows[0].tail.slab
        self.reads = tuple(r for r in rows[0].reads if r.tokens)
        slots = [r.tail.slot for r in rows]
        lengths = [r.tail.length for r in rows]
        self.extent = max(lengths) + self.n  # tokens of the longest tail, new ones included
        self.low, self.high = slots[0], slots[-1] + 1
        self.even = min(lengths) + self.n == self.extent
        self.newest = max(max(r.positions) for r in rows)
        self._slots = torch.tensor(slots, device=device)
        # [N, n] each: the tail's length up to and including each token, and the token's position
        self._ends = torch.tensor(lengths, device=device)[:, None] + torch.arange(1, self.n + 1, device=device)
        self._at = torch.tensor([r.positions for r in rows], device=device)
        # With few unused slots between, compute over the whole range and ignore them. With many, gather the tails.
        self._gather = self.high - self.low > 2 * self.rows
        self._pick = None if self._gather or self.high - self.low == self.rows else self._slots - self.low
        self._blocked: dict[int | None, Tensor | None] = {}
        self._write(self.slab.positions, self._at)
        layout = self.slab.layout
        slabs = self.slab, *(r.tail.slab for r in self.reads if isinstance(r, TailView))
        plain = all(type(s.rooms[0]) is Room for s in slabs) and Readers.serves(layout.dtype, layout.head_dim)
        many = self.n > NATIVE_TOKENS
        self.native = native and plain and (not many or Readers.serves_many(layout.dtype, layout.head_dim))

    @cached_property
    def readers(self) -> Readers:
        """The group as the kernels take it, for all layers."""
        return Readers(
            self.start, self.n, self._slots.repeat_interleave(self.n), self._ends.flatten(), self.slab, self.reads
        )

    # -- the tails -------------------------------------------------------------------------------------------

    def _write(self, buffer: Tensor | Room, new: Tensor) -> None:
        """Appends new numbers [N, n, ...] to the rows' tails in `buffer` [slots, ..., capacity, ...]."""
        if self.rows == 1:
            span = slice(self.extent - self.n, self.extent)
            if new.dim() == 2:
                buffer[self.low, span] = new[0]
            else:
                buffer[self.low, :, span] = new[0].transpose(0, 1)
        elif new.dim() == 2:
            buffer[self._slots[:, None], self._ends - 1] = new
        else:
            buffer[self._slots[:, None], :, self._ends - 1] = new

    def _tails(self, room: Room) -> Tensor:
        """The rows' tails [N or more, kv_heads, extent, head_dim]; a view unless the slots are too far apart."""
        if self._gather:
            return room.rows(self._slots, self.extent)
        return room[self.low : self.high, :, : self.extent]

    def _spread(self, x: Tensor) -> Tensor:
        """Moves rows [N, ...] to their slots in `_tails`."""
        if self._pick is None:
            return x
        wide = x.new_zeros(self.high - self.low, *x.shape[1:])
        wide[self._pick] = x
        return wide

    def _collect(self, x: Tensor) -> Tensor:
        """The inverse of `_spread`."""
        return x if self._pick is None else x[self._pick]

    # -- masks ---------------------------------------------------------------------------------------

    def _hidden(self, layer: int, window: int | None) -> Tensor | None:
        """The mask, True where a token must not look, broadcastable to [kv_heads, g, N, n, keys]; None if nowhere.

        It covers the last keys: the tail's, and those of the reads only if a window hides some.
        """
        window = window if self.cut(window) else None
        per_head = window is not None and any(r.positions.dim() == 3 for r in self.reads)
        if window in self._blocked and not per_head:
            return self._blocked[window]
        blocked: Tensor | None = None
        if self.n > 1 or not self.even:
            blocked = (torch.arange(self.extent, device=self._at.device) >= self._ends[..., None])[None, None]
        if window is not None:
            keys = [self._read_positions(r.positions, layer) for r in self.reads]
            own = self.slab.positions.index_select(0, self._slots)[None, None, :, None, : self.extent]
            gone = [k <= self._at[..., None] - window for k in (*keys, own)]
            heads = max(g.shape[0] for g in gone)
            left = torch.cat([g.expand(heads, -1, -1, -1, -1) for g in gone], -1)
            if blocked is not None:
                left[..., left.shape[-1] - self.extent :] |= blocked
            blocked = left
        if not per_head:
            self._blocked[window] = blocked
        return blocked

    def cut(self, window: int | None) -> bool:
        """Whether a window hides anything yet. Positions are never negative."""
        return window is not None and self.newest >= window

    @staticmethod
    def _read_positions(positions: Tensor, layer: int) -> Tensor:
        """[1 or kv_heads, 1, 1, 1, tokens]"""
        at = positions[layer] if positions.dim() == 3 else positions[None]
        return at[:, None, None, None, :]

    # -- the computation -------------------------------------------------------------------------------------

    def attend(self, layer: Layer) -> Tensor:
        """Appends the new keys and values to the tails and attends -> [N * n, heads, d]."""
        mine = slice(self.start, self.start + self.size)
        rooms = self.slab.layer(layer.number)
        heads, kv_heads, d = layer.query.shape[0], layer.key.shape[0], layer.query.shape[-1]
        q = layer.query[:, mine].reshape(kv_heads, heads // kv_heads, self.rows, self.n, d)
        for room, new in zip(rooms, (layer.key, layer.value), strict=True):
            self._write(room, new[:, mine].transpose(0, 1).reshape(self.rows, self.n, kv_heads, d))
        parts = [r.layer(layer.number) for r in self.reads]
        tails = self._tails(rooms[0]), self._tails(rooms[1])
        blocked = self._hidden(layer.number, layer.window)
        prefill = self.rows == 1 and layer.softcap is None and (self.n > 1 or not parts)
        if prefill:
            tails = _joined(parts, tails)
        width = self.extent + sum(r.tokens for r in self.reads)
        piece = max(1, MAX_SCORES // (heads * self.rows * width))
        out = []
        for i in range(0, self.n, piece):
            some = q[:, :, :, i : i + piece]
            mask = None if blocked is None else blocked[..., i : i + piece, :]
            if prefill:
                out.append(_prefill(some, tails, layer.scaling, mask))
            else:
                out.append(self._batched(some, parts, tails, layer, mask))
        whole = out[0] if len(out) == 1 else torch.cat(out, 3)
        return whole.permute(2, 3, 0, 1, 4).reshape(self.size, heads, d)

    def _batched(
        self,
        q: Tensor,
        parts: list[tuple[Tensor, Tensor]],
        tails: tuple[Tensor, Tensor],
        layer: Layer,
        blocked: Tensor | None,
    ) -> Tensor:
        """Attention of q over shared parts [kv_heads, S, d] and tails [N, kv_heads, M, d].

        q and the result are [kv_heads, g, N, m, d]: g query heads share a KV head, m tokens of each row.
        """
        kv_heads, g, rows, m, d = q.shape
        flat = q.reshape(kv_heads, g * rows * m, d)
        own = self._spread(q.permute(2, 0, 1, 3, 4).reshape(rows, kv_heads, g * m, d))
        scores = [torch.bmm(flat, k.transpose(1, 2)).view(kv_heads, g, rows, m, -1) for k, _ in parts]
        private = self._collect(torch.matmul(own, tails[0].transpose(2, 3)))
        scores.append(private.view(rows, kv_heads, g, m, -1).permute(1, 2, 0, 3, 4))
        # The softmax is in fp32, as in transformers. Nothing else uses the scores, so they are changed in place.
        all_scores = (torch.cat(scores, -1) if parts else scores[0]).float().mul_(layer.scaling)
        if layer.softcap is not None:
            all_scores = all_scores.div_(layer.softcap).tanh_().mul_(layer.softcap)
        if blocked is not None:
            all_scores[..., all_scores.shape[-1] - blocked.shape[-1] :].masked_fill_(blocked, float("-inf"))
        weights = torch.softmax(all_scores, -1).to(q.dtype)
        place = sum(k.shape[1] for k, _ in parts)
        mine = self._spread(weights[..., place:].permute(2, 0, 1, 3, 4).reshape(rows, kv_heads, g * m, -1))
        out = self._collect(torch.matmul(mine, tails[1])).view(rows, kv_heads, g, m, d).permute(1, 2, 0, 3, 4)
        place = 0
        for k, v in parts:
            shared = weights[..., place : place + k.shape[1]].reshape(kv_heads, g * rows * m, -1)
            out = out + torch.bmm(shared, v).view(kv_heads, g, rows, m, d)
            place += k.shape[1]
        return out


def _joined(parts: list[tuple[Tensor, Tensor]], tails: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Shared parts and a group's only tail, joined: keys and values [1, kv_heads, tokens, d]."""
    if not parts:
        return tails
    keys = torch.cat([*(k for k, _ in parts), tails[0][0]], 1)
    values = torch.cat([*(v for _, v in parts), tails[1][0]], 1)
    return keys[None], values[None]


def _prefill(q: Tensor, whole: tuple[Tensor, Tensor], scaling: float, blocked: Tensor | None) -> Tensor:
    """One row of many tokens, q [kv_heads, g, 1, m, d], by torch's fused attention.

    Unlike `_batched`, it never holds the scores.
    """
    keys, values = whole[0][0, :, None], whole[1][0, :, None]
    if q.shape[3] == 1 and blocked is None:
        # One token that sees all keys: heads that share a KV head become queries of one head, which reads keys once.
        folded = q[:, :, 0].transpose(1, 2)
        out = nn.functional.scaled_dot_product_attention(folded, keys, values, scale=scaling)
        return out.transpose(1, 2)[:, :, None]
    mask = None
    if blocked is not None:
        mask = nn.functional.pad(~blocked[:, :, 0], (keys.shape[2] - blocked.shape[-1], 0), value=True)
    out = nn.functional.scaled_dot_product_attention(q[:, :, 0], keys, values, mask, scale=scaling, enable_gqa=True)
    return out[:, :, None]
