// The products of products.h in integers by AMX tiles, 16 tokens, 16 outputs and 32 inputs at a time. The integer sums
// are the same and are scaled in the same order, so that tiles and vectors give the same bits.

#pragma once

#include "tiles.h"

namespace {

constexpr int64_t DEEP_BYTES = GROUP / WORD_BYTES;  // rows of a tile that holds a group of a panel, one byte a level
constexpr int64_t LEVEL_BYTES = DEEP_BYTES * LINE;  // of such a tile

#if defined(WITH_TILES)

constexpr int64_t AT_ONCE = 8;  // groups: their products, levels and tokens fit into L1

// The integer products of a tile of tokens and a group of a panel, [token][output]: for int16 tokens those of their
// high bytes, then those of their low bytes.
template <Kind KIND>
struct alignas(LINE) Products {
    int32_t sums[KIND == BYTES ? 1 : 2][TALL][LANES];
};

// Multiplies a group. Even and odd groups use different tiles, so that two are in flight.
template <Kind KIND, int ODD>
inline void multiply_group(const int8_t* tokens, const uint8_t* levels, Products<KIND>& to) {
    if constexpr (KIND == BYTES && ODD == 0) {
        _tile_zero(0);
        _tile_loadd(4, tokens, GROUP);
        _tile_loadd(6, levels, LINE);
        _tile_dpbsud(0, 4, 6);
        _tile_stored(0, to.sums[0], LINE);
    } else if constexpr (KIND == BYTES) {
        _tile_zero(1);
        _tile_loadd(5, tokens, GROUP);
        _tile_loadd(7, levels, LINE);
        _tile_dpbsud(1, 5, 7);
        _tile_stored(1, to.sums[0], LINE);
    } else {
        _tile_loadd(4, tokens, 2 * GROUP);
        _tile_loadd(5, tokens + GROUP, 2 * GROUP);
        if constexpr (ODD == 0) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_loadd(6, levels, LINE);
            _tile_dpbsud(0, 4, 6);
            _tile_dpbuud(1, 5, 6);
            _tile_stored(0, to.sums[0], LINE);
            _tile_stored(1, to.sums[1], LINE);
        } else {
            _tile_zero(2);
            _tile_zero(3);
            _tile_loadd(7, levels, LINE);
            _tile_dpbsud(2, 4, 7);
            _tile_dpbuud(3, 5, 7);
            _tile_stored(2, to.sums[0], LINE);
            _tile_stored(3, to.sums[1], LINE);
        }
    }
}

// Adds the products of some groups of a panel and a tile of tokens to the sums, or starts these. `bytes`: 4-bit levels
// of these groups as bytes. All groups are multiplied before the first is scaled, as scaling waits for a tile's store.
template <int FORMAT, Kind KIND>
inline void multiply_panel(const uint8_t* panel, const uint8_t* bytes, int64_t first, int64_t count, const Tokens& x,
                           int64_t tile, Floats* sums) {
    const int64_t wide = x.start(tile + 1) - x.start(tile), size = words_of(KIND) * WORD_BYTES * wide;
    const int8_t* tokens = x.tile(tile) + first * size;
    const int32_t* own = x.tile_sums(tile) + first * wide;
    const float* scales = KIND == BYTES ? x.tile_scales(tile) + first * wide : nullptr;
    const auto levels = [&](int64_t g) {
        return KIND == BYTES ? bytes + g * LEVEL_BYTES : panel + group_at<FORMAT>(first + g);
    };
    Products<KIND> found[AT_ONCE];
    compiler_barrier();
    for (int64_t g = 0; g < count; g += 2) {
        multiply_group<KIND, 0>(tokens + g * size, levels(g), found[g]);
        if (g + 1 < count) multiply_group<KIND, 1>(tokens + (g + 1) * size, levels(g + 1), found[g + 1]);
    }
    Floats acc[TALL] = {};
    if (first) {
        UNROLLED for (int m = 0; m < TALL; m++) acc[m] = sums[m];
    }
    for (int64_t g = 0; g < count; g++) {
        const Real scale = reals(panel + scales_at<FORMAT>(first + g));
        Real minimum = {};
        if constexpr (has_minima(FORMAT)) minimum = reals(panel + minima_at<FORMAT>(first + g));
        else if constexpr (KIND == BYTES) minimum = scale * -float(zero_of(FORMAT));
        UNROLLED for (int m = 0; m < TALL; m++) {
            Whole sum = load<Whole>(found[g].sums[0][m]);
            if constexpr (KIND == WHOLE) sum = (sum << 8) + load<Whole>(found[g].sums[1][m]);
            if constexpr (KIND == WHOLE && zero_of(FORMAT) != 0) sum += own[m];
            if constexpr (KIND == BYTES) acc[m] += real(sum) * (scale * scales[m]);
            else acc[m] += real(sum) * scale;
            if constexpr (has_minima(FORMAT) || KIND == BYTES) acc[m] += minimum * load<float>(own + m);
        }
        own += wide, scales += KIND == BYTES ? wide : 0;
    }
    UNROLLED for (int m = 0; m < TALL; m++) sums[m] = acc[m];
}

// The sums of some pairs of panels: a few groups of all panels at a time, so that the weights and a tile's tokens stay
// in L1. Meanwhile the next groups are prefetched.
template <int FORMAT>
void byte_sums(const Tokens& x, const Pairs& pairs, Floats* sums) {
    constexpr Kind KIND = bits_of(FORMAT) == 4 ? BYTES : WHOLE;
    constexpr int64_t PANELS = 2 * TASK;
    alignas(LINE) uint8_t room[KIND == BYTES ? PANELS * AT_ONCE * LEVEL_BYTES : LINE];
    const uint8_t* panels[PANELS];
    int64_t places[PANELS], most = 0;
    for (int64_t i = 0; i < pairs.count; i++)
        for (int64_t p = 0; p < pairs[i].count; p++)
            places[most] = (2 * i + p) * x.places(), panels[most++] = pairs[i].at + p * pairs.panel;
    const int64_t lines = (scales_at<FORMAT>(std::min(AT_ONCE, x.groups)) / LINE + x.tiles) / x.tiles;
    for (int64_t first = 0; first < x.groups; first += AT_ONCE) {
        const int64_t count = std::min(AT_ONCE, x.groups - first);
        const int64_t soon = first + count == x.groups ? pairs.count * pairs.next : scales_at<FORMAT>(first + count);
        for (int64_t p = 0; p < most && KIND == BYTES; p++)
            for (int64_t g = 0; g < count; g++)
                prepare<FORMAT, PackedBytes>(panels[p] + group_at<FORMAT>(first + g),
                                             room + (p * AT_ONCE + g) * LEVEL_BYTES);
        for (int64_t tile = 0; tile < x.tiles; tile++)
            for (int64_t p = 0; p < most; p++) {
                for (int64_t line = tile * lines; line < (tile + 1) * lines; line++)
                    __builtin_prefetch(panels[p] + soon + line * LINE, 0, 2);
                multiply_panel<FORMAT, KIND>(panels[p], room + p * AT_ONCE * LEVEL_BYTES, first, count, x, tile,
                                             sums + places[p] + tile * TALL);
            }
    }
}

#else

template <int FORMAT>
void byte_sums(const Tokens&, const Pairs&, Floats*) {}

#endif

}  // namespace
