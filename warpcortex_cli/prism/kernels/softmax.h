// One softmax over keys that are read a few at a time, by the vectors of any CPU.

#pragma once

#include "vectors.h"

#include <limits>
#include <vector>

namespace {

// Keys and values that lie together: of one KV head, one token behind the other.
template <typename T>
struct Span {
    const T *keys, *values;
    int64_t tokens;
};

constexpr int64_t PIECE = 64;  // keys whose scores are held at once
constexpr int TOGETHER = 8;    // query heads that read a key at once
constexpr int64_t AT_ONCE = NATIVE == 64 ? 16 : 8;  // keys whose sums fit into registers

inline Real register_of(const float* from) { return load<Real>(from); }
inline Real register_of(const uint16_t* from) { return real(load<Half>(from)); }

// What HEADS queries have gathered so far of one softmax: each its highest score, sum of weights, and weighted values.
template <typename T, int HEADS>
inline void read(const Floats* query, int64_t width, float scaling, Span<T> span, float* state) {
    const int64_t d = width * LANES;
    Floats scores[HEADS][PIECE / LANES];
    for (int64_t start = 0; start < span.tokens; start += PIECE) {
        const int64_t here = std::min(PIECE, span.tokens - start), blocks = (here + LANES - 1) / LANES;
        const T *keys = span.keys + start * d, *values = span.values + start * d;
        for (int64_t b = 0; b < blocks; b++) {
            const T* at[LANES];  // behind the last token it is read again, and forgotten
            for (int64_t i = 0; i < LANES; i++) at[i] = keys + std::min(b * LANES + i, here - 1) * d;
            for (int h = 0; h < HEADS; h++) {
                Real sums[LANES];
                for (int64_t half = 0; half < LANES; half += AT_ONCE) {
                    Real own[AT_ONCE] = {};
                    for (int64_t w = 0; w < width * PARTS; w++) {
                        const Real part = load<Real>((const char*)(query + h * width) + w * NATIVE);
                        for (int64_t i = 0; i < AT_ONCE; i++) own[i] += part * register_of(at[half + i] + w * (LANES / PARTS));
                    }
                    for (int64_t i = 0; i < AT_ONCE; i++) sums[half + i] = own[i];
                }
                scores[h][b] = choose(order() < int32_t(here - b * LANES), totals_of(sums) * scaling, splat(LOWEST));
            }
        }
        for (int h = 0; h < HEADS; h++) {
            float *own = state + h * (d + 2), most = own[0];
            Floats highest = splat(most), sum = {};
            for (int64_t b = 0; b < blocks; b++) highest = choose(scores[h][b] > highest, scores[h][b], highest);
            most = highest_of(highest);
            for (int64_t b = 0; b < blocks; b++) sum += scores[h][b] = exponential(scores[h][b] - most);
            const float before = exponential(splat(own[0] - most))[0];
            own[0] = most;
            own[1] = own[1] * before + total(sum);
            for (int64_t i = 0; i < d; i++) own[2 + i] *= before;
        }
        for (int64_t w = 0; w < width; w++) {
            Floats sums[HEADS];
            for (int h = 0; h < HEADS; h++) sums[h] = load<Floats>(state + h * (d + 2) + 2 + w * LANES);
            for (int64_t t = 0; t < here; t++) {
                const Floats value = lanes(values + t * d + w * LANES);
                for (int h = 0; h < HEADS; h++) sums[h] += ((const float*)scores[h])[t] * value;
            }
            for (int h = 0; h < HEADS; h++) put(state + h * (d + 2) + 2 + w * LANES, sums[h]);
        }
    }
}

template <typename T, int HEADS = TOGETHER>
inline void read_some(int64_t heads, const Floats* query, int64_t width, float scaling, Span<T> span, float* state) {
    if constexpr (HEADS > 1)
        if (heads < HEADS) return read_some<T, HEADS - 1>(heads, query, width, scaling, span, state);
    read<T, HEADS>(query, width, scaling, span, state);
}

}  // namespace
