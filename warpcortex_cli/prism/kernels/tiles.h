// The same products by tiles of AMX, where a CPU has it: 16 tokens, 16 outputs and 64 inputs, or 32 of 16 bits, in one
// instruction.

#pragma once

#include "amx.h"
#include "products.h"

namespace {

// Chunks of which all tokens stay in the first cache, together with the weights: with few tiles, and with many.
constexpr int64_t CLOSE = 2, CLOSER = 8, FEW_TILES = 4;

#if defined(WITH_TILES)

// What tiles ask memory for while they multiply: `lines` of each chunk, beginning with this one, so much further.
struct Wanted {
    int64_t ahead, first, lines;
};

// Sums number `to` plus tokens number `a` times weights number `b`.
#define MULTIPLY(to, a, b)            \
    do {                              \
        if constexpr (BITS == 16)     \
            _tile_dpbf16ps(to, a, b); \
        else                          \
            _tile_dpbsud(to, a, b);   \
    } while (false)

// Adds what weights give to the sums of A tiles of tokens, or begins these.
template <int BITS, int A, int P>
inline void multiply_tiles(const Weights& weights, const Wanted& wanted, const int8_t* const* tokens,
                           const int64_t* wide, Ints* const* sums) {
    written();
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
    for (int64_t c = 0; c < weights.chunks; c++) {
        const uint8_t* at = weights.at + c * CHUNK_BYTES;
        for (int64_t i = 0; i < wanted.lines; i++)
            for (int p = 0; p < P; p++)
                __builtin_prefetch(at + p * weights.panel + wanted.ahead + (wanted.first + i) * LINE, 0, 2);
        _tile_loadd(4, tokens[0] + c * CHUNK * wide[0], CHUNK);
        if constexpr (A > 1) _tile_loadd(5, tokens[1] + c * CHUNK * wide[1], CHUNK);
        _tile_loadd(6, at, LINE);
        MULTIPLY(0, 4, 6);
        if constexpr (A > 1) MULTIPLY(1, 5, 6);
        if constexpr (P > 1) {
            _tile_loadd(7, at + weights.panel, LINE);
            MULTIPLY(2, 4, 7);
            if constexpr (A > 1) MULTIPLY(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], LINE);
    if constexpr (A > 1) _tile_stored(1, sums[1], LINE);
    if constexpr (P > 1) _tile_stored(2, sums[2], LINE);
    if constexpr (A > 1 && P > 1) _tile_stored(3, sums[3], LINE);
}

// All tokens times some chunks of P panels. What is read next, `ahead` bytes further, is asked for evenly: lines on
// their way from memory take places of which a core has few, and without one tiles wait even for the second cache.
template <int BITS, int P>
inline void multiply_all(const Weights& weights, int64_t ahead, const Tokens& x, Ints* sums) {
    constexpr int64_t LINES = CHUNK / FOUR;
    const int64_t turns = (x.tiles + 1) / 2, lines = weights.far ? (LINES + turns - 1) / turns : 0;
    for (int64_t tile = 0, line = 0; tile < x.tiles; tile += 2, line += lines) {
        const int8_t* tokens[2];
        int64_t wide[2];
        Ints* to[2 * P];
        const int a = tile + 1 < x.tiles ? 2 : 1;
        for (int i = 0; i < a; i++) {
            wide[i] = x.start(tile + i + 1) - x.start(tile + i);
            tokens[i] = x.tile(tile + i) + weights.first * CHUNK * wide[i];
            for (int p = 0; p < P; p++) to[2 * p + i] = sums + p * x.places() + (tile + i) * x.tall;
        }
        const Wanted wanted = {ahead, line, std::min(lines, LINES - line)};
        (a == 2 ? multiply_tiles<BITS, 2, P> : multiply_tiles<BITS, 1, P>)(weights, wanted, tokens, wide, to);
    }
}

// The sums of some pairs of panels, one behind the other. They take turns, a few chunks at a time: so the tokens of
// these are read out of the first cache, and memory is at work all the time, for what is read next.
template <int BITS>
void tile_sums(const Tokens& x, const Pairs& pairs, Ints* sums) {
    Bytewise<BITS, CLOSER> bytewise;
    const auto place = [](int64_t chunk) { return group_at<BITS>(chunk * GROUPS<BITS>); };
    for (int64_t first = 0, chunks = 0; first < x.chunks; first += chunks) {
        chunks = taken<BITS>(x, first, x.tiles > FEW_TILES ? CLOSER : CLOSE);
        const int64_t next = first + chunks < x.chunks ? place(first + chunks) - pairs.count * pairs.next : 0;
        for (int64_t i = 0; i < pairs.count; i++) {
            const Panels panels = pairs[i];
            const int64_t ahead = pairs.next + (i + 1 < pairs.count ? 0 : next - place(first));
            const Weights weights = bytewise(x, panels, first, chunks, {ahead, panel_bytes<BITS>(x.groups * GROUP), 0});
            Ints* to = sums + 2 * i * x.places();
            (panels.count == 2 ? multiply_all<BITS, 2> : multiply_all<BITS, 1>)(weights, ahead, x, to);
        }
    }
}

#else

template <int BITS>
void tile_sums(const Tokens&, const Pairs&, Ints*) {}

#endif

}  // namespace
