// The products of products.h by AMX tiles: 16 tokens, 16 outputs and 32 bfloat16 inputs in one instruction.

#pragma once

#include "products.h"

namespace {

// Groups at a time, so that all tokens and the weights fit into L1: with at most FEW_TILES tiles, and with more.
constexpr int64_t CLOSE = 2, CLOSER = 8, FEW_TILES = 4;
constexpr int64_t TASK = 2;  // pairs of panels of a task

#if defined(WITH_TILES)

// What to prefetch while multiplying: lines [first, first + lines) of each group, `ahead` bytes further.
struct Prefetch {
    int64_t ahead, first, lines;
};

// Adds the products of weights and A tiles of tokens to the sums, or begins these.
template <int A, int P>
inline void multiply_tiles(const Weights& weights, const Prefetch& prefetch, const int8_t* const* tokens,
                           const int64_t* wide, Floats* const* sums) {
    compiler_barrier();
    if (weights.first == 0) {
        _tile_zero(0);
        if constexpr (A > 1) _tile_zero(1);
        if constexpr (P > 1) _tile_zero(2);
        if constexpr (A > 1 && P > 1) _tile_zero(3);
    } else {
        _tile_loadd(0, sums[0], LINE);
        if constexpr (A > 1) _tile_loadd(1, sums[1], LINE);
        if constexpr (P > 1) _tile_loadd(2, sums[2], LINE);
        if constexpr (A > 1 && P > 1) _tile_loadd(3, sums[3], LINE);
    }
    for (int64_t g = 0; g < weights.count; g++) {
        const uint8_t* at = weights.held + g * weights.size;
        for (int64_t i = 0; i < prefetch.lines; i++)
            for (int p = 0; p < P; p++)
                __builtin_prefetch(at + p * weights.apart + prefetch.ahead + (prefetch.first + i) * LINE, 0, 2);
        _tile_loadd(4, tokens[0] + g * LINE * wide[0], LINE);
        if constexpr (A > 1) _tile_loadd(5, tokens[1] + g * LINE * wide[1], LINE);
        _tile_loadd(6, at, LINE);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (A > 1) _tile_dpbf16ps(1, 5, 6);
        if constexpr (P > 1) {
            _tile_loadd(7, at + weights.apart, LINE);
            _tile_dpbf16ps(2, 4, 7);
            if constexpr (A > 1) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], LINE);
    if constexpr (A > 1) _tile_stored(1, sums[1], LINE);
    if constexpr (P > 1) _tile_stored(2, sums[2], LINE);
    if constexpr (A > 1 && P > 1) _tile_stored(3, sums[3], LINE);
}

// Multiplies all tokens with some groups of P panels. What is read next, `ahead` bytes further, is prefetched evenly: a
// core has few line fill buffers, and without a free one tiles wait even for L2.
template <int P>
inline void multiply_all(const Weights& weights, int64_t ahead, const Tokens& x, Floats* sums) {
    const int64_t turns = (x.tiles + 1) / 2, lines = ahead ? (PAIRS + turns - 1) / turns : 0;
    for (int64_t tile = 0, line = 0; tile < x.tiles; tile += 2, line += lines) {
        const int8_t* tokens[2];
        int64_t wide[2];
        Floats* to[2 * P];
        const int a = tile + 1 < x.tiles ? 2 : 1;
        for (int i = 0; i < a; i++) {
            wide[i] = x.start(tile + i + 1) - x.start(tile + i);
            tokens[i] = x.tile(tile + i) + weights.first * LINE * wide[i];
            for (int p = 0; p < P; p++) to[2 * p + i] = sums + p * x.places() + (tile + i) * x.tall;
        }
        const Prefetch prefetch = {ahead, line, std::min(lines, PAIRS - line)};
        (a == 2 ? multiply_tiles<2, P> : multiply_tiles<1, P>)(weights, prefetch, tokens, wide, to);
    }
}

// The sums of some pairs of panels of bfloat16, consecutively. Pairs alternate, a few groups at a time, so that the tokens
// of these groups stay in L1 while memory keeps fetching what is read next.
inline void half_sums(const Tokens& x, const Pairs& pairs, Floats* sums) {
    const int64_t most = x.tiles > FEW_TILES ? CLOSER : CLOSE;
    for (int64_t first = 0, count = 0; first < x.groups; first += count) {
        count = std::min(most, x.groups - first);
        const int64_t byte = group_at<16>(first);
        const int64_t next = first + count < x.groups ? group_at<16>(first + count) - pairs.count * pairs.next : 0;
        for (int64_t i = 0; i < pairs.count; i++) {
            const Panels panels = pairs[i];
            const int64_t ahead = pairs.next + (i + 1 < pairs.count ? 0 : next - byte);
            const Weights weights = {panels.at, panels.at + byte, panels.panel, panels.panel, GROUP_BYTES<16>, first, count};
            Floats* to = sums + 2 * i * x.places();
            (panels.count == 2 ? multiply_all<2> : multiply_all<1>)(weights, ahead, x, to);
        }
    }
}

#else

inline void half_sums(const Tokens&, const Pairs&, Floats*) {}

#endif

}  // namespace
