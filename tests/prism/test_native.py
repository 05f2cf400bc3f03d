"""The kernels for a CPU give what plain arithmetic gives, for every kind of CPU that they are compiled for."""

from __future__ import annotations

import platform
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from warpcortex_cli.errors import RunError
from warpcortex_cli.gguf.grouped import Grouped, rounded
from warpcortex_cli.memory.segment import KVLayout, Segment
from warpcortex_cli.memory.tail import Slab, Tail, TailPool, TailView
from warpcortex_cli.prism import library, native
from warpcortex_cli.prism.attention import Layer
from warpcortex_cli.prism.low_rank import Adapted, LowRank, Pair, Place
from warpcortex_cli.prism.native import F16, INT4, INT5, INT6, MINIMA
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.prism.step import NATIVE_TOKENS, PackedStep

LEVELS = [4, INT4, INT5, INT6, 8, 8 + MINIMA]
FORMATS = [*LEVELS, F16, 16]
pytestmark = pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")
OTHERS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "AVX-512 without VNNI": ("-march=skylake-avx512",),
        "AVX2": ("-mavx2", "-mfma", "-mf16c"),
        "AVX2 without F16C": ("-mavx2", "-mfma"),
        "any": ("-mno-avx",),
    },
    "aarch64": {"any": ("-march=armv8-a",)},
}
CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
if "amx_tile" in CPU:  # on others these are this one
    OTHERS["x86_64"]["tiles are refused"] = ("-march=native", "-include", "refused.h")
    OTHERS["x86_64"]["no tiles"] = ("-march=native", "-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
if "avx512_bf16" in CPU:
    OTHERS["x86_64"]["tiles in plain C++"] = ("-march=native", "-include", str(Path(__file__).with_name("tiles.h")))
LIKE = {"this one": (), **OTHERS.get(platform.machine(), {})}
NEEDED = {"AVX-512 without VNNI": "avx512vl", "AVX2": "f16c", "AVX2 without F16C": "avx2"}  # of this one, to run them


def rounds_to_bf16() -> bool:
    """Whether a CPU rounds the inputs of bfloat16 weights: a weight of 1, and an input near it."""
    return float(native.multiply(torch.tensor([[1 + 2**-10]]), native.pack(torch.ones(1, 1), 16), None, 16, 1)) == 1


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Products of the same packed weights."""
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-4)


def as_multiplied(x: torch.Tensor, format: int) -> torch.Tensor:
    """What kernels make of inputs for weights of a format."""
    if format == F16:
        return x
    if format == 16:
        return x.bfloat16().float() if rounds_to_bf16() else x
    if format % MINIMA == 4:  # int8, and a scale for each 32
        groups = torch.nn.functional.pad(x, (0, -x.shape[1] % 32)).unflatten(1, (-1, 32))
        most = groups.abs().amax(2, True)
        by = torch.where(most > 1e-33, 127 / most, 0)
        return ((groups * by).round() * (most / 127)).flatten(1)[:, : x.shape[1]]
    most = x.abs().amax(1, True) if len(x) else x[:, :1]
    scale = 2.0 ** (torch.frexp(most).exponent - 15)
    scale = torch.where((x / scale).round().abs().amax(1, True) >= 1 << 15, 2 * scale, scale) if len(x) else scale
    return (x / scale).round() * scale


@pytest.fixture(params=list(LIKE))
def cpu(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The kernels as they are on another kind of CPU."""
    kind: str = request.param
    if kind != "this one":
        path = tmp_path_factory.getbasetemp() / f"{kind}.so"
        if not path.exists():
            refused = path.with_name("refused.h")  # what a kernel does that does not know the request
            refused.write_text("#include <sys/syscall.h>\n#undef SYS_arch_prctl\n#define SYS_arch_prctl -1\n")
            flags = [str(refused) if flag == refused.name else flag for flag in LIKE[kind]]
            library.build(path, [*flags, "-O0"])  # computes the same, and is compiled in a fifth of the time
        if CPU and NEEDED.get(kind, "") not in CPU:
            pytest.skip(f"this CPU is not {kind}: its kernels are compiled, but cannot run")
        made: Any = native.opened(path)
        monkeypatch.setattr(native, "kernels", lambda: made)
    return kind


@pytest.mark.parametrize(
    ("format", "error"),
    [(INT4, 0.09), (INT5, 0.05), (INT6, 0.03), (8, 0.01), (8 + MINIMA, 0.01), (F16, 5e-4), (16, 0.003)],
)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (37, 100), (48, 2080)])
def test_packed_weights_are_near_the_weights(cpu: str, format: int, error: float, outputs: int, inputs: int) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1))
    packed = native.pack(weight, format)
    whole = -(-outputs // 16) * 16 * -(-inputs // 32) * 32  # edges are filled up
    assert packed.nbytes <= whole * (format % MINIMA) / 8 * 1.32 + 128  # scales, minima, sums
    rows = torch.tensor([outputs - 1, 0, outputs // 2])
    found = native.unpack(packed, format, rows, inputs)
    assert (found - weight[rows]).norm() < error * weight[rows].norm()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tokens", [0, 1, 5, 13, 40, 70])
@pytest.mark.parametrize(("outputs", "inputs"), [(37, 100), (16, 1500)])
def test_products_are_those_of_the_rounded_weights(
    cpu: str, format: int, tokens: int, outputs: int, inputs: int
) -> None:
    make = torch.Generator().manual_seed(tokens)
    packed = native.pack(torch.randn(outputs, inputs, generator=make), format)
    x, bias = torch.randn(tokens, inputs, generator=make), torch.randn(outputs, generator=make)
    weights = native.unpack(packed, format, torch.arange(outputs), inputs)
    given = as_multiplied(x, format)
    same(native.multiply(x, packed, bias, format, outputs), given @ weights.T + bias)
    same(native.multiply(x, packed, None, format, outputs), given @ weights.T)


@given(
    format=st.sampled_from(FORMATS[:-1]),
    tokens=st.integers(1, 30) | st.integers(64, 90),  # so many are multiplied by tiles, where there are such
    outputs=st.integers(1, 50),
    inputs=st.integers(1, 400),
    loud=st.sampled_from([1.0, 1e-30, 1e-6, 1e3, 1e12, 1e30]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_products_of_any_shape_and_size(
    format: int, tokens: int, outputs: int, inputs: int, loud: float, seed: int
) -> None:
    """With outliers, with whole groups of zeros, and each row to the bit what it is alone, in any order."""
    make = torch.Generator().manual_seed(seed)
    packed = native.pack(torch.randn(outputs, inputs, generator=make), format)
    x = torch.randn(tokens, inputs, generator=make) * loud
    x[:, seed % inputs] *= 100
    x[seed % tokens, : inputs // 2] = 0
    weights = native.unpack(packed, format, torch.arange(outputs), inputs)
    found = native.multiply(x, packed, None, format, outputs)
    same(found / loud, (as_multiplied(x, format).double() @ weights.double().T / loud).float())
    order = torch.randperm(tokens, generator=make)
    assert torch.equal(native.multiply(x[order], packed, None, format, outputs), found[order])
    some = seed % tokens
    assert torch.equal(native.multiply(x[some : some + 1], packed, None, format, outputs)[0], found[some])


def test_an_outlier_spoils_its_own_group_only(cpu: str) -> None:
    """With levels of 4 bits, inputs have 8, and a scale for each 32."""
    packed = native.pack(torch.eye(64), INT4)
    x = torch.full((1, 64), 0.3)
    x[0, 5] = 1000.0
    found = native.multiply(x, packed, None, INT4, 64)[0]
    assert torch.allclose(found[32:], x[0, 32:], rtol=0.01)
    assert bool((found[:5] == 0).all())


@pytest.mark.parametrize("format", LEVELS)
@pytest.mark.parametrize(("outputs", "inputs"), [(50, 96), (33, 2080)])  # not whole chunks, of more than are near
def test_every_cpu_gives_the_same_products(cpu: str, format: int, outputs: int, inputs: int) -> None:
    """Sums of a group are whole numbers, and only what groups give is added up in fp32."""
    torch.manual_seed(6)
    weight, x = torch.randn(outputs, inputs), torch.randn(70, inputs)
    usual = native.opened(library.built())
    packed, wanted = (
        torch.empty(usual.packed_bytes(format, outputs, inputs), dtype=torch.uint8),
        torch.empty(70, outputs),
    )
    usual.pack(format, weight.data_ptr(), packed.data_ptr(), outputs, inputs, 1)
    usual.multiply(format, x.data_ptr(), packed.data_ptr(), None, wanted.data_ptr(), 70, inputs, outputs, 1)
    found = native.multiply(x, packed, None, format, outputs)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)  # a CPU may round each product, or only their sum


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("outputs", [7, 32, 101])
def test_a_summary_is_that_of_the_product(cpu: str, format: int, outputs: int) -> None:
    torch.manual_seed(9)
    weight = torch.randn(outputs, 40)
    weight[5] = weight[3]  # two that are the same: the first one counts
    packed, bias = native.pack(weight, format), torch.full((outputs,), -500.0)  # more than what fills a panel up
    x = torch.randn(30, 40)
    x[2] = 5 * weight[3]
    x[4, 7] = float("nan")
    product = native.multiply(x, packed, bias, format, outputs)
    summaries = native.summarize(x, packed, bias, format, outputs)
    for row, (value, place, total) in zip(product, summaries, strict=True):
        if row.isnan().any():
            assert value != value
        else:
            assert value == row.max() and place == row.tolist().index(value)
            assert total == pytest.approx(float(row.double().logsumexp(0)), abs=1e-4)
    assert [i for i, row in enumerate(product) if row.isnan().any()] == [4]
    assert summaries[2][1] == 3


@pytest.mark.parametrize("format", FORMATS)
def test_no_token_touches_another(cpu: str, format: int) -> None:
    """Neither the loudest one nor one that is not finite, which is seen in all that it gives. Alone each is as here."""
    torch.manual_seed(4)
    packed, x = native.pack(torch.randn(20, 64), format), torch.randn(70, 64)
    alone = [native.multiply(row[None], packed, None, format, 20)[0] for row in x]
    x[3] *= 1e6
    x[7, 5], x[8, 9] = float("nan"), float("-inf")
    beside = native.multiply(x, packed, None, format, 20)
    assert not beside[[7, 8]].isfinite().any()
    for row in set(range(70)) - {3, 7, 8}:
        assert torch.equal(beside[row], alone[row])


@pytest.mark.parametrize(
    ("format", "dtype", "least", "most"), [(16, torch.bfloat16, 1e-39, 3e38), (F16, torch.float16, 6e-8, 65504)]
)
def test_weights_of_16_bits_stay_what_they_are(
    cpu: str, format: int, dtype: torch.dtype, least: float, most: float
) -> None:
    weight = torch.randn(37, 100).to(dtype)
    weight[3, 4], weight[5, 6] = least, most  # the smallest and the largest that there are
    packed = native.pack(weight, format)
    assert torch.equal(native.unpack(packed, format, torch.arange(37), 100), weight.float())
    ends = torch.zeros(1, 100)
    ends[0, 4] = ends[0, 6] = 1.0
    small = native.multiply(ends, packed, None, format, 37)[0, 3]
    assert small == weight[3, 4].float() + weight[3, 6].float()


def grouped(bits: int, minima: bool, outputs: int, inputs: int) -> Grouped:
    """Levels that use all of their range, and scales and minima as files of GGUF hold them, in fp16."""
    make, size = torch.Generator().manual_seed(outputs), 16 if bits == 6 else 32
    levels = torch.randint(0, 1 << bits, (outputs, inputs), generator=make, dtype=torch.uint8)
    scales, low = (torch.randn(outputs, -(-inputs // size), generator=make).half().float() for _ in range(2))
    return Grouped(levels, scales, low if minima else None, bits, size)


@pytest.mark.parametrize(
    ("bits", "minima"), [(4, False), (4, True), (5, False), (5, True), (6, False), (8, False), (8, True)]
)
def test_levels_of_a_file_stay_what_they_are(cpu: str, bits: int, minima: bool) -> None:
    given = grouped(bits, minima, 37, 100)
    packed, format = native.pack_grouped(given)
    assert format == bits + MINIMA * (minima or bits == 5)
    assert torch.equal(native.unpack(packed, format, torch.arange(37), 100), given.weights())
    if bits == 6:
        return
    more, other = native.pack_grouped(given.with_minima(8))
    assert other == 8 + MINIMA
    torch.testing.assert_close(native.unpack(more, other, torch.arange(37), 100), given.weights())


@pytest.mark.parametrize("size", [2.0**-100, 2.0**-20, 2.0**20, 2.0**100])
@pytest.mark.parametrize("format", LEVELS[1:])
def test_weights_may_be_of_any_size(format: int, size: float) -> None:
    """fp16 alone would hold none of these scales."""
    weight = torch.randn(20, 64, generator=torch.Generator().manual_seed(3))
    found = native.unpack(native.pack(weight * size, format), format, torch.arange(20), 64) / size
    wanted = native.unpack(native.pack(weight, format), format, torch.arange(20), 64)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 7, 12, 13, 25, 70])
@pytest.mark.parametrize("format", FORMATS)
def test_the_largest_numbers_do_not_overflow(cpu: str, format: int, tokens: int) -> None:
    """All weights and all inputs at an end of their range, where sums of 16 bits, or of 32, would wrap."""
    if format not in LEVELS:
        packed, wanted = native.pack(torch.full((16, 4096), -3.0), format), -3.0
    else:
        bits = format % MINIMA
        size = 16 if format == INT6 else 32
        levels, ones = torch.full((16, 4096), (1 << bits) - 1, dtype=torch.uint8), torch.ones(16, 4096 // size)
        given = Grouped(levels, -ones, 2 * ones if format >= MINIMA else None, bits, size)
        packed, wanted = native.pack_grouped(given)[0], float(given.weights()[0, 0])
    x = torch.full((tokens, 4096), -1000.0)
    found = native.multiply(x, packed, None, format, 16)
    torch.testing.assert_close(found, torch.full((tokens, 16), -1000.0 * wanted * 4096), rtol=1e-4, atol=0)


@pytest.mark.parametrize("format", [8, 8 + MINIMA, 16, F16])
def test_an_outlier_costs_nothing(cpu: str, format: int) -> None:
    """An input of a trained model may be 500 times as large as the others, which are not to be rounded away by it."""
    make = torch.Generator().manual_seed(5)
    packed, x = native.pack(torch.randn(32, 576, generator=make), format), torch.randn(9, 576, generator=make)
    x[:, 7] = 500
    weights = native.unpack(packed, format, torch.arange(32), 576)
    weights[:, 7] = 0
    found = (
        native.multiply(x, packed, None, format, 32) - 500 * native.unpack(packed, format, torch.arange(32), 576)[:, 7]
    )
    most = 0.06 if format == 16 and rounds_to_bf16() else 0.01  # a bfloat16 of the outlier is that far off
    assert (found - x @ weights.T).norm() < most * (x @ weights.T).norm()


def test_torch_rounds_weights_as_the_kernels_do() -> None:
    weight = torch.randn(33, 100, generator=torch.Generator().manual_seed(8)) * torch.logspace(-9, 9, 33)[:, None]
    weight[4, :40], weight[5] = 0, 0
    found = native.unpack(native.pack(weight, 8), 8, torch.arange(33), 100)
    torch.testing.assert_close(rounded(weight).weights(), found, rtol=1e-5, atol=0)


@pytest.mark.parametrize("format", FORMATS)
def test_weights_of_nothing_give_nothing(format: int) -> None:
    packed = native.pack(torch.zeros(18, 40), format)
    assert torch.equal(native.multiply(torch.randn(3, 40), packed, None, format, 18), torch.zeros(3, 18))
    assert torch.equal(native.multiply(torch.zeros(3, 40), packed, torch.ones(18), format, 18), torch.ones(3, 18))


X, BIAS = torch.randn(3, 40), torch.randn(18)


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": X.double()},
        {"x": X[0]},
        {"x": X[:, :-9]},
        {"x": X.to("meta")},
        {"packed": lambda p: p[:-1]},
        {"packed": lambda p: p.view(torch.int8)},
        {"packed": lambda p: torch.stack([p, p], 1)[:, 0]},
        {"bias": BIAS[:-1]},
        {"bias": BIAS.double()},
        {"format": 5},
        {"outputs": 33},
        {"outputs": 0},
    ],
)
@pytest.mark.parametrize("of", ["multiply", "summarize", "operator"])
def test_what_does_not_fit_is_refused_before_it_is_read(of: str, wrong: dict[str, Any]) -> None:
    packed = native.pack(torch.randn(18, 40), 8)
    given: dict[str, Any] = {"x": X, "packed": packed, "bias": BIAS, "format": 8, "outputs": 18, **wrong}
    if callable(given["packed"]):
        given["packed"] = given["packed"](packed)
    call = {"multiply": native.multiply, "summarize": native.summarize, "operator": torch.ops.warpcortex.multiply}[of]
    if of == "operator" and given["x"].device.type == "meta":
        return  # which is asked for shapes alone
    with pytest.raises(ValueError):
        call(**given)


def test_rows_that_are_not_there_and_weights_that_are_none_are_refused() -> None:
    packed = native.pack(torch.randn(18, 40), 8)
    for which, inputs in (([-1], 40), ([32], 40), ([0], 72), ([0], 0)):
        with pytest.raises(ValueError):
            native.unpack(packed, 8, torch.tensor(which), inputs)
    with pytest.raises(ValueError):
        native.unpack(packed, 8, torch.tensor([1.0]), 40)
    assert native.unpack(packed, 8, torch.tensor([], dtype=torch.long), 40).shape == (0, 40)
    empty, wide = torch.zeros(3, 0), torch.zeros(1, 1).expand(1, 1 << 18)
    for weight in (torch.zeros(3), torch.ones(3, 4, dtype=torch.int), empty, wide, torch.zeros(3, 4, device="meta")):
        with pytest.raises(ValueError):
            native.pack(weight, 8)


def test_attention_refuses_what_does_not_fit() -> None:
    layout = KVLayout(2, 2, 32, torch.bfloat16, torch.device("cpu"))
    slab, one = Slab(layout, 4, 8), torch.ones(1, dtype=torch.long)

    def part(**other: Any) -> Segment:
        own = {"heads": 2, "d": 32, "dtype": torch.bfloat16, "layers": 2, "tokens": 5, **other}
        some = tuple(
            torch.ones(own["heads"], own["tokens"], own["d"], dtype=own["dtype"]) for _ in range(own["layers"])
        )
        return Segment(some, some, torch.arange(own["tokens"]))

    readers = native.Readers(0, 1, one, one, slab, (part(),))
    for slots, lengths, each in ((4, 1, 1), (-1, 1, 1), (0, 0, 1), (0, 9, 1), (0, 1, 2), (0, 1, 0)):
        with pytest.raises(ValueError):
            native.Readers(0, each, one * slots, one * lengths, slab, ())
    wrong: list[dict[str, Any]] = [{"heads": 1}, {"d": 16}, {"dtype": torch.float32}, {"layers": 1}]
    for other in wrong:
        with pytest.raises(ValueError):
            native.Readers(0, 1, one, one, slab, (part(**other),))
    with pytest.raises(ValueError):
        native.Readers(0, 1, one, one, Slab(layout, 4, 8, "int8"), ())
    with pytest.raises(ValueError):
        native.Readers(0, 1, one, one.float(), slab, ())
    with pytest.raises(ValueError, match="share tokens"):
        native.Attending([readers, native.Readers(0, 1, one, one, slab, ())])
    attending = native.Attending([native.Readers(1, 1, one, one, slab, ())])
    q, k = (torch.ones(heads, 2, 32, dtype=torch.bfloat16) for heads in (4, 2))
    assert attending.attend(1, (q, k, k), 1.0).shape == (2, 4, 32)
    for number, qkv in ((2, (q, k, k)), (0, (q[:3], k, k)), (0, (q, k[:1], k)), (0, (q.float(), k, k))):
        with pytest.raises(ValueError):
            attending.attend(number, qkv, 1.0)
    with pytest.raises(ValueError):
        attending.attend(0, (q[:, :1], k[:, :1], k[:, :1]), 1.0)  # the token of the group is the second


def near(mine: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype, by: float = 0.015) -> None:
    """Head by head, for what heads read is the smaller the more keys they have. `theirs` is computed in fp32."""
    far = (mine - theirs).norm(dim=-1)
    assert bool((far <= (1e-5 if dtype == torch.float32 else by) * theirs.norm(dim=-1)).all())


def step(
    rows: int,
    heads: tuple[int, int],
    d: int,
    tails: list[int],
    parts: list[int],
    dtype: torch.dtype,
    native: bool,
    tokens: int = 1,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What a step of so many tokens a row gives in each of two layers, and what is in its tails after it."""
    torch.manual_seed(rows)
    kv_heads, heads_of_each = heads
    kept = dtype if native else torch.float32  # of the same numbers
    layout = KVLayout(2, kv_heads, d, kept, torch.device("cpu"))
    pool = TailPool(layout, 90, rows + 2)
    taken = [pool.take() for _ in range(rows + 1)]
    del taken[rows // 2]  # a hole
    reads = tuple(
        Segment(
            tuple(torch.randn(kv_heads, n, d).to(dtype).to(kept) for _ in range(2)),
            tuple(torch.randn(kv_heads, n, d).to(dtype).to(kept) for _ in range(2)),
            torch.arange(n),
        )
        for n in parts
    )
    for tail, length in zip(taken, tails, strict=True):
        some = [torch.randn(kv_heads, length, d).to(dtype).to(kept) for _ in range(4)]
        tail.append(some[:2], some[2:], torch.arange(length))
    packed = PackedStep([Row([1] * tokens, [100] * tokens, tail, reads) for tail in taken], torch.device("cpu"), native)
    found = []
    for number in range(2):
        # As transformers gives them: heads are a view of [tokens, heads, d].
        q, k, v = (
            torch.randn(rows * tokens, n, d).to(dtype).to(kept).transpose(0, 1)
            for n in (kv_heads * heads_of_each, kv_heads, kv_heads)
        )
        found.append(packed.attend(Layer(number, q, k, v, d**-0.5, None, None)).float())
    packed.commit()
    return torch.stack(found), [part.float() for tail in taken for part in tail.layer(1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    rows=st.integers(1, 9),
    heads=st.sampled_from([(1, 1), (2, 7), (3, 4), (1, 12)]),
    d=st.sampled_from([16, 64, 80]),
    lengths=st.data(),
    parts=st.lists(st.integers(1, 150), max_size=2),
    tokens=st.sampled_from([1, 1, 2, 11]),
)
@settings(max_examples=30, deadline=None)
def test_attention_is_that_of_torch(
    dtype: torch.dtype, rows: int, heads: tuple[int, int], d: int, lengths: st.DataObject, parts: list[int], tokens: int
) -> None:
    tails = lengths.draw(st.lists(st.integers(0, 79), min_size=rows, max_size=rows))
    mine, theirs = (step(rows, heads, d, tails, parts, dtype, native, tokens) for native in (True, False))
    near(mine[0], theirs[0], dtype)
    assert all(torch.equal(a, b) for a, b in zip(mine[1], theirs[1], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_for_every_cpu(cpu: str, dtype: torch.dtype) -> None:
    for rows, parts, tokens in ((1, [70], 1), (5, [64, 3], 1), (1, [200, 3], 11)):
        tails = [7 * i for i in range(rows)]
        mine, theirs = (step(rows, (2, 7), 64, tails, parts, dtype, n, tokens)[0] for n in (True, False))
        near(mine, theirs, dtype)


@torch.inference_mode()  # as in a forward
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_many_kinds_of_rows(threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long tail, its reader of several tokens, Streams over what they share, one in int8, and a long prefill; in a
    layer with a window, too."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    d = 32

    def made(served: bool) -> list[torch.Tensor]:
        torch.manual_seed(8)
        kept = dtype if served else torch.float32
        layout = KVLayout(2, 2, d, kept, torch.device("cpu"))
        river, pool, small = (
            Tail(Slab(layout, 1, 16), growing=True),
            TailPool(layout, 40),
            TailPool(layout, 40, 4, "int8"),
        )
        filled = [(river, 1300), *((pool.take(), n) for n in (3, 0, 17)), (small.take(), 9), (pool.take(), 5)]
        for tail, length in filled:
            some = [torch.randn(2, length, d).to(dtype).to(kept) for _ in range(4)]
            tail.append(some[:2], some[2:], torch.arange(length))
        both = [tuple(torch.randn(2, 70, d).to(dtype).to(kept) for _ in range(2)) for _ in range(2)]
        shared = Segment(both[0], both[1], torch.arange(70))
        own, prefill = Tail(Slab(layout, 1, 9)), Tail(Slab(layout, 1, NATIVE_TOKENS + 1))
        streams = [tail for tail, _ in filled[1:]]
        rows = [Row([1], [1300], river), Row([1] * 9, list(range(1280, 1289)), own, (river.view(1290), shared))]
        rows += [Row([1], [1300], tail, (shared,)) for tail in streams[:4]]
        rows += [Row([1] * 3, [1300, 1301, 1302], streams[4], (TailView(river, 70, 590), shared))]
        rows += [Row([1] * (NATIVE_TOKENS + 1), list(range(NATIVE_TOKENS + 1)), prefill)]
        packed = PackedStep(rows, torch.device("cpu"), served)
        tokens = sum(len(row.tokens) for row in rows)
        found = []
        for number, window in enumerate((None, 40)):
            q, k, v = (torch.randn(tokens, n, d).to(dtype).to(kept).transpose(0, 1) for n in (6, 2, 2))
            found.append(packed.attend(Layer(number, q, k, v, d**-0.5, None, window)))
        packed.commit()
        kept = [part for tail in (river, own, *streams, prefill) for n in range(2) for part in tail.layer(n)]
        return [*found, *kept]

    for mine, theirs in zip(made(True), made(False), strict=True):
        near(mine.float(), theirs.float(), dtype, 0.04)  # some rows are torch's, in bf16


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
def test_any_number_of_threads_gives_the_same(
    kind: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: threads come and go while a conversation runs, and the same seed gives the same run."""
    folder = model_folder("qwen2")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prism = Prism(model, AutoTokenizer.from_pretrained(folder), "qwen2", kind)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        tails = [prism.new_tail(400) for _ in range(20)]
        first = prism.forward([Row([5 + i % 90 for i in range(300)], list(range(300)), tails[0], logits="last")])
        rows = [Row([7 + i], [300], tail, (tails[0].view(250),), logits="last") for i, tail in enumerate(tails[1:])]
        found.append([r.logits for r in (*first, *prism.forward([Row([9], [300], tails[0], logits="last"), *rows]))])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("dtype", "d"), [(torch.float32, 16), (torch.bfloat16, 32)])
def test_what_is_not_finite_stays_in_its_row(dtype: torch.dtype, d: int) -> None:
    slab = Slab(KVLayout(1, 1, d, dtype, torch.device("cpu")), 4, 8)
    slab.values[0].data.fill_(1)
    shared = Segment((torch.zeros(1, 5, d, dtype=dtype),), (torch.ones(1, 5, d, dtype=dtype),), torch.arange(5))
    queries = torch.ones(1, 4, d, dtype=dtype)
    queries[0, 2, 0] = float("nan")
    row = torch.ones(1, 4, d, dtype=dtype)
    group = native.Readers(0, 1, torch.arange(4), torch.full((4,), 8), slab, (shared,))
    found = native.Attending([group]).attend(0, (queries, row, row), 1.0)
    assert found[2].isnan().all() and torch.allclose(found[[0, 1, 3]], torch.ones(3, 1, d, dtype=dtype))


@pytest.mark.parametrize(
    ("quantize", "compiled", "served"),
    [("none", False, False), ("none", True, True), ("bf16", False, True), ("int8", False, True), ("int4", False, True)],
)
def test_a_quantized_or_compiled_model_attends_by_them(
    quantize: str,
    compiled: bool,
    served: bool,
    model_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for rows of many tokens, which torch takes in blocks."""
    calls: list[int] = []
    attend = native.Attending.attend
    monkeypatch.setattr(
        native.Attending, "attend", lambda self, n, qkv, *a: calls.append(qkv[0].shape[1]) or attend(self, n, qkv, *a)
    )
    run = native.Layers.run
    monkeypatch.setattr(
        native.Layers, "run", lambda self, x, *a: calls.extend([len(x)] * self.count) or run(self, x, *a)
    )
    model = AutoModelForCausalLM.from_pretrained(model_folder("qwen2"), dtype=torch.float32)
    prism = Prism(model, AutoTokenizer.from_pretrained(model_folder("qwen2")), "qwen2", quantize, compiled)
    for tokens, wanted in ((1, served), (NATIVE_TOKENS, served), (NATIVE_TOKENS + 1, False)):
        calls.clear()
        prism.forward([Row([5] * tokens, list(range(tokens)), prism.new_tail(tokens), logits="none")])
        assert calls == [tokens] * (prism.layers * wanted)


def test_a_damaged_library_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "kernels.so"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(native, "built", lambda: damaged)
    monkeypatch.setattr(native, "elsewhere", lambda path: path)
    monkeypatch.setattr(native, "kernels", native.kernels.__wrapped__)
    with pytest.raises(RunError, match="could not be opened"):
        native.kernels()
    assert not native.usable.__wrapped__()


def test_rooms_that_a_tail_has_left_are_not_kept() -> None:
    """Otherwise a long River would be held twice while it grows."""
    tail = Tail(Slab(KVLayout(2, 2, 32, torch.bfloat16, torch.device("cpu")), 1, 16, apart=True), growing=True)
    new = [torch.randn(2, 16, 32).bfloat16()] * 2
    tail.append(new, new, torch.arange(16))
    native.Readers(0, 1, torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long), tail.slab, (tail.view(9),))
    left = [weakref.ref(room) for room in tail.slab.rooms]
    tail.append(new, new, torch.arange(16, 32))
    assert not any(room() for room in left)
    again = native.Readers(0, 1, torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long), tail.slab, ())
    table = torch.tensor([(k.data.data_ptr(), v.data.data_ptr()) for k, v in map(tail.slab.layer, range(2))])
    assert torch.equal(again._held[4].table, table)


WIDTH, HEADS, KV, HEAD, INNER = 40, 3, 1, 12, 48  # panels of 16 outputs belong to q, k and v at once
OUTPUTS = {
    Place(5, "qkv", 0): (WIDTH, HEADS * HEAD),
    Place(5, "qkv", HEADS * HEAD): (WIDTH, KV * HEAD),
    Place(5, "qkv", (HEADS + KV) * HEAD): (WIDTH, KV * HEAD),
    Place(5, "output", 0): (HEADS * HEAD, WIDTH),
    Place(5, "gate_up", 0): (WIDTH, INNER),
    Place(5, "gate_up", INNER): (WIDTH, INNER),
    Place(5, "down", 0): (INNER, WIDTH),
}


def silent_layer(format: int) -> native.LayerKernels:
    """A layer whose weights are all 0."""

    def linear(outputs: int, inputs: int) -> native.Linear:
        return native.Linear(native.pack(torch.zeros(outputs, inputs), format), None, format, outputs)

    norm = native.Norm(torch.ones(WIDTH), 1e-6)
    wide = (HEADS + 2 * KV) * HEAD
    linears = linear(wide, WIDTH), linear(WIDTH, HEADS * HEAD), linear(2 * INNER, WIDTH), linear(WIDTH, INNER)
    return native.LayerKernels(native.Parts(HEADS, KV, HEAD, *linears, norm, norm, None, None, None, None, False), 5)


@pytest.mark.parametrize("format", [INT4, 8, 16])
@pytest.mark.parametrize("tokens", [1, 7, 300])  # of 300, 256 are taken at once
def test_adapters_add_to_each_token_what_they_are(cpu: str, format: int, tokens: int) -> None:
    """To weights of 0: so all that comes out is theirs, and it is the same whatever stands beside a token."""
    make = torch.Generator().manual_seed(tokens)
    ranks = [dict.fromkeys(OUTPUTS, 3), {place: 1 + n * 7 for n, place in enumerate(OUTPUTS) if n != 1}]
    pairs = [
        {place: Pair(*(torch.randn(size, generator=make).bfloat16().float() for size in ((i, r), (r, o))))
         for place, (i, o) in OUTPUTS.items() if (r := of.get(place))} for of in ranks
    ]  # fmt: skip
    owner = [n % 3 for n in range(tokens)]  # the third one has no adapter
    low = [LowRank(of, 6) for of in pairs]
    some = [(one, [n for n in range(tokens) if owner[n] == i]) for i, one in enumerate(low)]
    hidden, read = torch.randn(tokens, WIDTH, generator=make), torch.randn(tokens, HEADS, HEAD, generator=make)
    around, still = silent_layer(format), (torch.ones(tokens, HEAD), torch.zeros(tokens, HEAD))
    adapted = Adapted([given for given in some if given[1]])
    qkv, out = around.before(hidden, *still, adapted), around.after(hidden, read, adapted)

    def added(place: Place, x: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(tokens, OUTPUTS[place][1])
        for n, i in enumerate(owner):
            if i < 2 and place in pairs[i]:
                found[n] = x[n] @ pairs[i][place].down @ pairs[i][place].up
        return found

    def normalized(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (WIDTH,), eps=1e-6)

    query, key, value, output, gate, up, down = OUTPUTS
    wanted = torch.cat([added(place, normalized(hidden)) for place in (query, key, value)], 1)
    torch.testing.assert_close(qkv.transpose(0, 1).flatten(1), wanted, atol=1e-3, rtol=1e-4)
    between = hidden + added(output, read.flatten(1))
    x = normalized(between)
    inner = torch.nn.functional.silu(added(gate, x)) * added(up, x)
    wanted = between + added(down, inner)
    torch.testing.assert_close(out, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-4)
    none = [n for n in range(tokens) if owner[n] == 2]
    assert torch.equal(qkv[:, none], around.before(hidden, *still)[:, none])
    assert torch.equal(out[none], around.after(hidden, read)[none])
    for n in {0, tokens // 2, tokens - 1}:
        if owner[n] < 2:
            mine, one = Adapted([(low[owner[n]], [0])]), slice(n, n + 1)
            alone = around.before(hidden[one], *(x[one] for x in still), mine)
            assert torch.equal(alone[:, 0], qkv[:, n])
            assert torch.equal(around.after(hidden[one], read[one], mine)[0], out[n])


def test_adapters_that_do_not_fit_are_refused() -> None:
    around, still = silent_layer(8), (torch.ones(2, HEAD), torch.zeros(2, HEAD))
    short = LowRank({Place(4, "down", 0): Pair(torch.ones(INNER, 1), torch.ones(1, WIDTH))}, 5)
    with pytest.raises(ValueError, match="5 layers do not fit 6"):
        around.before(torch.zeros(2, WIDTH), *still, Adapted([(short, [0])]))
    fitting = LowRank({Place(5, "down", 0): Pair(torch.ones(INNER, 1), torch.ones(1, WIDTH))}, 6)
    with pytest.raises(ValueError, match="3 tokens not 2"):
        around.after(torch.zeros(2, WIDTH), torch.zeros(2, HEADS, HEAD), Adapted([(fitting, [0, 2])]))
