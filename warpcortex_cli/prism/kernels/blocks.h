// Packs ggml's blocks into panels directly: a GGUF file is read once and written once.
//
// Layouts: ggml-common.h. The result is that of `gguf/blocks.py`: levels, and the scale and minimum of each 32. Levels of
// 5 bits without minima are shifted so that the weight 0 is level 128.

#pragma once

#include "panels.h"

namespace {

enum Blocks { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K };

// Bytes of a block, groups of 32 in it, and the panel format that holds it.
struct BlockForm {
    int64_t bytes, groups;
    int format;
};

constexpr BlockForm form_of(Blocks kind) {
    switch (kind) {
        case Q4_0: return {18, 1, 4};
        case Q4_1: return {20, 1, 4 + MINIMA};
        case Q5_0: return {22, 1, 8};
        case Q5_1: return {24, 1, 8 + MINIMA};
        case Q8_0: return {34, 1, 8};
        case Q4_K: return {144, 8, 4 + MINIMA};
        default: return {176, 8, 8 + MINIMA};
    }
}

inline float half_at(const uint8_t* at) { return from_half(load<uint16_t>(at)); }

// The low nibbles of 16 bytes, then the high ones.
inline void halves(const uint8_t* packed, uint8_t* levels) {
    uint8_t own[16];  // a copy, since for all the compiler knows `levels` may alias `packed`
    std::memcpy(own, packed, sizeof(own));
    for (int i = 0; i < 16; i++) levels[i] = own[i] & 15, levels[16 + i] = own[i] >> 4;
}

// Adds the fifth bits of 32 levels, lowest first, then `more`.
inline void fifths(const uint8_t* bits, uint8_t* levels, int more) {
    const uint32_t all = load<uint32_t>(bits);
    for (int i = 0; i < GROUP; i++) levels[i] = uint8_t((levels[i] | (all >> i & 1) << 4) + more);
}

// Scale and minimum of a group of Q4_K and Q5_K: 6 bits each in 12 bytes, times the block's own scale and minimum.
inline void k_scale(const uint8_t* block, int64_t g, float* scale, float* minimum) {
    const uint8_t* six = block + 4;
    const int low = g < 4 ? six[g] & 63 : (six[g + 4] & 15) | six[g - 4] >> 6 << 4;
    const int least = g < 4 ? six[g + 4] & 63 : six[g + 4] >> 4 | six[g] >> 6 << 4;
    *scale = half_at(block) * float(low);
    *minimum = -(half_at(block + 2) * float(least));
}

// fp16 numbers that panels hold as they are. For subnormals `settle` finds other scales.
inline bool normal(uint16_t half) { return (half & 0x7c00) != 0 || (half & 0x7fff) == 0; }
inline bool finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

// The 32 levels of a group of a block.
template <Blocks KIND>
inline void levels_of(const uint8_t* block, int64_t g, uint8_t* levels) {
    if constexpr (KIND == Q4_K || KIND == Q5_K) {
        const uint8_t *high = block + 16, *packed = block + (KIND == Q4_K ? 16 : 48) + g / 2 * GROUP;
        const int shift = g % 2 * 4;
        for (int i = 0; i < GROUP; i++) {
            const int low = packed[i] >> shift & 15;
            levels[i] = uint8_t(KIND == Q4_K ? low : low | (high[i] >> g & 1) << 4);
        }
    }
    if (KIND == Q4_0) halves(block + 2, levels);
    if (KIND == Q4_1) halves(block + 4, levels);
    if (KIND == Q5_0) halves(block + 6, levels), fifths(block + 2, levels, 128 - 16);
    if (KIND == Q5_1) halves(block + 8, levels), fifths(block + 4, levels, 0);
    if (KIND == Q8_0)
        for (int i = 0; i < GROUP; i++) levels[i] = uint8_t(block[2 + i] + 128);
}

// Writes the scales and minima of an output that fp16 does not hold exactly; returns the output's factor.
template <Blocks KIND>
float settled(const uint8_t* row, int64_t groups, int64_t lane, uint8_t* panel) {
    constexpr BlockForm FORM = form_of(KIND);
    constexpr bool SECOND = has_minima(FORM.format);
    Fitted fit;
    fit.scales.resize(groups), fit.minima.resize(SECOND ? groups : 0);
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t* block = row + g / FORM.groups * FORM.bytes;
        float minimum = SECOND ? half_at(block + 2) : 0;
        if (KIND == Q4_K || KIND == Q5_K) k_scale(block, g % FORM.groups, &fit.scales[g], &minimum);
        else fit.scales[g] = half_at(block);
        if (SECOND) fit.minima[g] = minimum;
    }
    settle(fit);
    for (int64_t g = 0; g < groups; g++)
        put_scale<FORM.format>(to_half(fit.scales[g]), SECOND ? to_half(fit.minima[g]) : 0, g, lane, panel);
    return fit.times;
}

// Packs rows of blocks [outputs, bytes] into panels. Returns whether all scales and minima are finite.
//
// Goes group by group through all outputs of a panel, so that the group's lines stay in cache until they are complete.
template <Blocks KIND>
bool packed_blocks(const uint8_t* blocks, uint8_t* out, int64_t outputs, int64_t inputs, int threads) {
    constexpr BlockForm FORM = form_of(KIND);
    constexpr int FORMAT = FORM.format;
    constexpr bool SECOND = has_minima(FORMAT);
    const int64_t groups = groups_of(inputs), row = groups / FORM.groups * FORM.bytes, size = panel_bytes<FORMAT>(inputs);
    bool all = true;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : all)
    for (int64_t number = 0; number < panels_of(outputs); number++) {
        uint8_t* panel = out + number * size;
        const int64_t lanes = std::min(LANES, outputs - number * LANES);
        const uint8_t* const from = blocks + number * LANES * row;
        std::memset(panel, 0, size);
        bool exact[LANES];
        std::fill(exact, exact + LANES, KIND != Q4_K && KIND != Q5_K);
        for (int64_t g = 0; g < groups; g++)
            for (int64_t lane = 0; lane < lanes; lane++) {
                const uint8_t* block = from + lane * row + g / FORM.groups * FORM.bytes;
                uint8_t levels[GROUP];
                levels_of<KIND>(block, g % FORM.groups, levels);
                put_group<FORMAT>(levels, g, lane, panel);
                const uint16_t scale = load<uint16_t>(block), minimum = SECOND ? load<uint16_t>(block + 2) : 0;
                all = all && finite(scale) && finite(minimum);
                exact[lane] = exact[lane] && normal(scale) && normal(minimum);
                if (exact[lane]) put_scale<FORMAT>(scale, minimum, g, lane, panel);
            }
        for (int64_t lane = 0; lane < lanes; lane++) {
            const float times = exact[lane] ? 1 : settled<KIND>(from + lane * row, groups, lane, panel);
            std::memcpy(panel + times_at<FORMAT>(groups) + lane * sizeof(float), &times, sizeof(float));
        }
    }
    return all;
}

inline bool pack_kind(Blocks kind, const uint8_t* blocks, uint8_t* out, int64_t outputs, int64_t inputs, int threads) {
    switch (kind) {
        case Q4_0: return packed_blocks<Q4_0>(blocks, out, outputs, inputs, threads);
        case Q4_1: return packed_blocks<Q4_1>(blocks, out, outputs, inputs, threads);
        case Q5_0: return packed_blocks<Q5_0>(blocks, out, outputs, inputs, threads);
        case Q5_1: return packed_blocks<Q5_1>(blocks, out, outputs, inputs, threads);
        case Q8_0: return packed_blocks<Q8_0>(blocks, out, outputs, inputs, threads);
        case Q4_K: return packed_blocks<Q4_K>(blocks, out, outputs, inputs, threads);
        default: return packed_blocks<Q5_K>(blocks, out, outputs, inputs, threads);
    }
}

}  // namespace
