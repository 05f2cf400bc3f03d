// The same products by tiles of AMX, where a CPU has it: 16 tokens, 16 outputs and 64 inputs in one instruction.

#pragma once

#include "amx.h"
#include "products.h"

namespace {

#if defined(WITH_TILES)

// Adds what `chunks` chunks of P panels give to the sums of A tiles of tokens, or begins these.
template <int A, int P>
inline void multiply_tiles(bool begins, const uint8_t* weights, int64_t panel, int64_t chunks,
                           const int8_t* const* tokens, const int64_t* wide, Ints* const* sums) {
    if (begins) {
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
    for (int64_t c = 0; c < chunks; c++) {
        const uint8_t* at = weights + c * CHUNK * LANES;
        for (int p = 0; p < P; p++)
            for (int64_t i = 0; i < CHUNK * LANES; i += LINE) __builtin_prefetch(at + p * panel + i + AHEAD);
        _tile_loadd(4, tokens[0] + c * CHUNK * wide[0], CHUNK);
        if constexpr (A > 1) _tile_loadd(5, tokens[1] + c * CHUNK * wide[1], CHUNK);
        _tile_loadd(6, at, LINE);
        _tile_dpbsud(0, 4, 6);
        if constexpr (A > 1) _tile_dpbsud(1, 5, 6);
        if constexpr (P > 1) {
            _tile_loadd(7, at + panel, LINE);
            _tile_dpbsud(2, 4, 7);
            if constexpr (A > 1) _tile_dpbsud(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], LINE);
    if constexpr (A > 1) _tile_stored(1, sums[1], LINE);
    if constexpr (P > 1) _tile_stored(2, sums[2], LINE);
    if constexpr (A > 1 && P > 1) _tile_stored(3, sums[3], LINE);
}

// All tokens with P panels. Numbers of 4 bits become bytes first, a few chunks at once, which stay in the first cache;
// and so does half a chunk at the end, which tiles would read beyond.
template <int BITS, int P>
void tile_sums(const Tokens& x, const uint8_t* panels, int64_t panel, Ints* sums) {
    constexpr int64_t SIZE = CHUNK * LANES, HALVES = CHUNK / GROUP;
    alignas(LINE) uint8_t bytes[P][(BITS == 4 ? NEAR : 1) * SIZE];
    for (int64_t first = 0, chunks = 0; first < x.chunks; first += chunks) {
        chunks = std::min(NEAR, x.chunks - first);
        bool cut = (first + chunks) * HALVES > x.groups;
        if (BITS == 8 && cut && chunks > 1) chunks -= 1, cut = false;
        const uint8_t* weights = panels + first * SIZE;
        int64_t between = panel;
        if (BITS == 4 || cut) {
            for (int p = 0; p < P; p++)
                for (int64_t g = first * HALVES; g < std::min((first + chunks) * HALVES, x.groups); g++) {
                    const Group<BITS> group(panels + p * panel, x.groups, g);
                    uint8_t* to = bytes[p] + (g - first * HALVES) * GROUP * LANES;
                    for (int pair = 0; pair < GROUP / FOUR / 2; pair++) {
                        Bytes two[2];
                        group.read(pair, two);
                        std::memcpy(to + 2 * pair * LINE, two, sizeof(two));
                    }
                }
            weights = bytes[0], between = sizeof(bytes[0]);
        }
        for (int64_t tile = 0; tile < x.tiles(); tile += 2) {
            const int8_t* tokens[2];
            int64_t wide[2];
            Ints* to[2 * P];
            const int a = tile + 1 < x.tiles() ? 2 : 1;
            for (int i = 0; i < a; i++) {
                wide[i] = x.start(tile + i + 1) - x.start(tile + i);
                tokens[i] = x.tile(tile + i) + first * CHUNK * wide[i];
                for (int p = 0; p < P; p++) to[2 * p + i] = sums + p * x.places() + (tile + i) * x.tall();
            }
            (a == 2 ? multiply_tiles<2, P> : multiply_tiles<1, P>)(first == 0, weights, between, chunks, tokens, wide, to);
        }
    }
}

#else

template <int BITS, int P>
void tile_sums(const Tokens&, const uint8_t*, int64_t, Ints*) {}

#endif

}  // namespace
