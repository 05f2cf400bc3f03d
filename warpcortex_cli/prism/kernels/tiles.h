// The same products by tiles of AMX, where a CPU has it: 16 tokens, 16 outputs and 64 inputs in one instruction.

#pragma once

#include "amx.h"
#include "products.h"

namespace {

#if defined(WITH_TILES)

// Adds what weights give to the sums of A tiles of tokens, or begins these. `asks`: for what it will read next, too.
template <int A, int P>
inline void multiply_tiles(const Weights& weights, bool asks, const int8_t* const* tokens, const int64_t* wide,
                           Ints* const* sums) {
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
        const uint8_t* at = weights.at + c * CHUNK * LANES;
        for (int p = 0; p < P && asks; p++)
            for (int64_t i = 0; i < CHUNK * LANES; i += LINE) weights.ask(p, c * CHUNK * LANES + i);
        _tile_loadd(4, tokens[0] + c * CHUNK * wide[0], CHUNK);
        if constexpr (A > 1) _tile_loadd(5, tokens[1] + c * CHUNK * wide[1], CHUNK);
        _tile_loadd(6, at, LINE);
        _tile_dpbsud(0, 4, 6);
        if constexpr (A > 1) _tile_dpbsud(1, 5, 6);
        if constexpr (P > 1) {
            _tile_loadd(7, at + weights.panel, LINE);
            _tile_dpbsud(2, 4, 7);
            if constexpr (A > 1) _tile_dpbsud(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], LINE);
    if constexpr (A > 1) _tile_stored(1, sums[1], LINE);
    if constexpr (P > 1) _tile_stored(2, sums[2], LINE);
    if constexpr (A > 1 && P > 1) _tile_stored(3, sums[3], LINE);
}

template <int BITS, int P>
void tile_sums(const Tokens& x, const Panels& panels, Ints* sums) {
    by_chunks<BITS, P>(x, panels, [&](const Weights& weights) {
        for (int64_t tile = 0; tile < x.tiles; tile += 2) {
            const int8_t* tokens[2];
            int64_t wide[2];
            Ints* to[2 * P];
            const int a = tile + 1 < x.tiles ? 2 : 1;
            for (int i = 0; i < a; i++) {
                wide[i] = x.start(tile + i + 1) - x.start(tile + i);
                tokens[i] = x.tile(tile + i) + weights.first * CHUNK * wide[i];
                for (int p = 0; p < P; p++) to[2 * p + i] = sums + p * x.places() + (tile + i) * x.tall;
            }
            (a == 2 ? multiply_tiles<2, P> : multiply_tiles<1, P>)(weights, weights.far && tile == 0, tokens, wide, to);
        }
    });
}

#else

template <int BITS, int P>
void tile_sums(const Tokens&, const Panels&, Ints*) {}

#endif

}  // namespace
