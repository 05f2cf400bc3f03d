// Online softmax over keys, a few at a time, by vectors.

#pragma once

#include "vectors.h"

#include <limits>
#include <type_traits>
#include <vector>

namespace {

// Contiguous keys and values of one KV head.
template <typename T>
struct Span {
    const T *keys, *values;
    int64_t tokens;
};

constexpr int64_t PIECE = 64;  // keys per softmax update
constexpr int HEADS_AT_ONCE = 8;    // query heads that read a key at once
constexpr int SUMS = NATIVE == 64 ? 24 : 10;  // registers for the sums of scores; those of values may use two more
constexpr int64_t STEP = LANES / PARTS;       // numbers in a register

// bfloat16 is read two at a time, as words: one instruction widens the even numbers to fp32, one the odd ones. fp32 is
// read in order.
template <int ODD>
inline Real register_of(const uint16_t* from) {
    const Word both = load<Word>(from);
    return (Real)(ODD ? both & 0xffff0000u : both << 16);
}
template <int ODD>
inline Real register_of(const float* from) { return load<Real>(from + ODD * STEP); }

// The layout of queries, which matches the registers of keys.
#if defined(__AVX512BF16__)
template <typename T>
using QueryNumber = T;
inline void lay_out(const uint16_t* from, int64_t d, uint16_t* to) { std::copy_n(from, d, to); }
#else
template <typename T>
using QueryNumber = float;
inline void lay_out(const uint16_t* from, int64_t d, float* to) {
    int64_t i = 0;
    for (; i + 2 * STEP <= d; i += 2 * STEP)
        store(to + i, register_of<0>(from + i)), store(to + i + STEP, register_of<1>(from + i));
    for (; i < d; i += STEP) store(to + i, real(load<Half>(from + i)));  // half a register of words
}
#endif
inline void lay_out(const float* from, int64_t d, float* to) { std::copy_n(from, d, to); }

inline Real last_of(const uint16_t* from) { return real(load<Half>(from)); }
inline Real last_of(const float* from) { return load<Real>(from); }

// How many keys (of 16), or registers of words, HEADS queries read at once with this many registers for sums.
constexpr int keys_of(int heads, int sums = SUMS) {
    int found = 1;
    while (2 * found * heads <= sums && found < LANES) found *= 2;
    return found;
}

// Dot products of HEADS consecutive queries with 16 keys, all of `d` numbers.
template <int HEADS, typename T>
inline void products(const float* query, int64_t d, const T* const* keys, Floats* found) {
    constexpr int KEYS = keys_of(HEADS);
    Real sums[HEADS][LANES];
    for (int first = 0; first < LANES; first += KEYS) {
        Real own[HEADS][KEYS] = {};
        const auto add = [&](int64_t place, auto key_of) {
            if constexpr (HEADS < KEYS) {  // hold whichever are fewer in registers
                Real part[HEADS];
                UNROLLED for (int h = 0; h < HEADS; h++) part[h] = pinned(load<Real>(query + h * d + place));
                UNROLLED for (int k = 0; k < KEYS; k++) {
                    const Real key = key_of(keys[first + k]);
                    UNROLLED for (int h = 0; h < HEADS; h++) own[h][k] += part[h] * key;
                }
            } else {
                Real key[KEYS];
                UNROLLED for (int k = 0; k < KEYS; k++) key[k] = key_of(keys[first + k]);
                UNROLLED for (int h = 0; h < HEADS; h++) {
                    const Real part = pinned(load<Real>(query + h * d + place));
                    UNROLLED for (int k = 0; k < KEYS; k++) own[h][k] += part * key[k];
                }
            }
        };
        int64_t i = 0;
        for (; i + 2 * STEP <= d; i += 2 * STEP) {
            add(i, [i](const T* key) { return register_of<0>(key + i); });
            add(i + STEP, [i](const T* key) { return register_of<1>(key + i); });
        }
        if constexpr (2 * STEP > LANES)
            if (i < d) add(i, [i](const T* key) { return last_of(key + i); });
        UNROLLED for (int h = 0; h < HEADS; h++)
            UNROLLED for (int k = 0; k < KEYS; k++) sums[h][first + k] = own[h][k];
    }
    for (int h = 0; h < HEADS; h++) found[h] = totals_of(sums[h]);
}

// Adds `count` weighted values to the sums of HEADS queries, `size` numbers apart: 16 * W numbers of each.
template <int HEADS, int W, typename T>
inline void weighed(const Floats (*weights)[PIECE / LANES], const T* values, int64_t d, int64_t count, float* sums,
                    int64_t size) {
    Floats own[HEADS][W];
    UNROLLED for (int h = 0; h < HEADS; h++)
        UNROLLED for (int w = 0; w < W; w++) own[h][w] = load<Floats>(sums + h * size + w * LANES);
    for (int64_t t = 0; t < count; t++) {
        Floats value[W];
        UNROLLED for (int w = 0; w < W; w++) value[w] = lanes(values + t * d + w * LANES);
        UNROLLED for (int h = 0; h < HEADS; h++) {
            const float weight = ((const float*)weights[h])[t];
            UNROLLED for (int w = 0; w < W; w++) own[h][w] += weight * value[w];
        }
    }
    UNROLLED for (int h = 0; h < HEADS; h++)
        UNROLLED for (int w = 0; w < W; w++) put(sums + h * size + w * LANES, own[h][w]);
}

// Adds even and odd numbers to sums in order.
inline void add_by_turns(float* to, Real even, Real odd) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    const __m256 low = _mm256_unpacklo_ps((__m256)even, (__m256)odd), high = _mm256_unpackhi_ps((__m256)even, (__m256)odd);
    store(to, load<Real>(to) + (Real)_mm256_permute2f128_ps(low, high, 0x20));
    store(to + STEP, load<Real>(to + STEP) + (Real)_mm256_permute2f128_ps(low, high, 0x31));
#else
    for (int64_t i = 0; i < STEP; i++) to[2 * i] += even[i], to[2 * i + 1] += odd[i];
#endif
}

// The same for W registers of words.
template <int HEADS, int W>
inline void weighed_words(const Floats (*weights)[PIECE / LANES], const uint16_t* values, int64_t d, int64_t count,
                          float* sums, int64_t size) {
    Real even[HEADS][W] = {}, odd[HEADS][W] = {};
    for (int64_t t = 0; t < count; t++, values += d) {
        Real weight[HEADS];
        UNROLLED for (int h = 0; h < HEADS; h++) weight[h] = ((const float*)weights[h])[t] - Real{};
        UNROLLED for (int w = 0; w < W; w++) {
            const Real first = register_of<0>(values + 2 * w * STEP);
            UNROLLED for (int h = 0; h < HEADS; h++) even[h][w] += weight[h] * first;
            const Real second = register_of<1>(values + 2 * w * STEP);
            UNROLLED for (int h = 0; h < HEADS; h++) odd[h][w] += weight[h] * second;
        }
    }
    for (int h = 0; h < HEADS; h++)
        for (int w = 0; w < W; w++) add_by_turns(sums + h * size + 2 * w * STEP, even[h][w], odd[h][w]);
}

template <int HEADS, typename T>
inline void weighed(const Floats (*weights)[PIECE / LANES], const T* values, int64_t d, int64_t count, float* sums,
                    int64_t size) {
    constexpr int W = std::max(1, SUMS / PARTS / HEADS / 2);
    int64_t i = 0;
    if constexpr (std::is_same<T, uint16_t>::value) {
        constexpr int WORDS = std::max(1, keys_of(HEADS, SUMS + 2) / 2);  // each has two sums
        const auto take = [&](auto count_of) {
            constexpr int64_t NUMBERS = 2 * STEP * decltype(count_of)::value;
            for (; i + NUMBERS <= d; i += NUMBERS)
                weighed_words<HEADS, decltype(count_of)::value>(weights, values + i, d, count, sums + i, size);
        };
        take(std::integral_constant<int, WORDS>()), take(std::integral_constant<int, 1>());
    }
    for (; i + W * LANES <= d; i += W * LANES) weighed<HEADS, W>(weights, values + i, d, count, sums + i, size);
    for (; i < d; i += LANES) weighed<HEADS, 1>(weights, values + i, d, count, sums + i, size);
}

#if defined(__AVX512BF16__)

// The same in bfloat16, by instructions that multiply pairs. Weights are rounded to bfloat16, too.

inline __m512bh halves_of(const uint16_t* from, int64_t count) {
    if (count >= 2 * LANES) return (__m512bh)_mm512_loadu_si512(from);
    return (__m512bh)_mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i*)from));
}

template <int HEADS>
inline void products(const uint16_t* query, int64_t d, const uint16_t* const* keys, Floats* found) {
    for (int h = 0; h < HEADS; h++) {
        Floats own[LANES];
        UNROLLED for (int k = 0; k < LANES; k++) own[k] = Floats{};
        for (int64_t i = 0; i < d; i += 2 * LANES) {
            const __m512bh part = halves_of(query + h * d + i, d - i);
            UNROLLED for (int k = 0; k < LANES; k++)
                own[k] = (Floats)_mm512_dpbf16_ps((__m512)own[k], part, halves_of(keys[k] + i, d - i));
        }
        found[h] = totals(own);
    }
}

template <int HEADS>
inline void weighed(const Floats (*weights)[PIECE / LANES], const uint16_t* values, int64_t d, int64_t count,
                    float* sums, int64_t size) {
    uint16_t rounded[HEADS][PIECE];
    for (int h = 0; h < HEADS; h++)
        for (int64_t b = 0; b * LANES < count; b++) put(rounded[h] + b * LANES, weights[h][b]);
    // Interleaving two keys puts numbers 0 to 3, 8 to 11, ... into the lower pairs and the others into the upper ones.
    for (int64_t i = 0; i < d; i += 2 * LANES) {
        const bool two = d - i > LANES;
        __m512 low[HEADS], high[HEADS];
        UNROLLED for (int h = 0; h < HEADS; h++) low[h] = high[h] = _mm512_setzero_ps();
        for (int64_t t = 0; t < count; t += 2) {  // a missing second value has weight 0
            const __m512i a = (__m512i)halves_of(values + t * d + i, d - i);
            const __m512i b = (__m512i)halves_of(values + std::min(t + 1, count - 1) * d + i, d - i);
            const __m512bh lower = (__m512bh)_mm512_unpacklo_epi16(a, b), upper = (__m512bh)_mm512_unpackhi_epi16(a, b);
            UNROLLED for (int h = 0; h < HEADS; h++) {
                const __m512bh both = (__m512bh)_mm512_set1_epi32(load<int32_t>(rounded[h] + t));
                low[h] = _mm512_dpbf16_ps(low[h], lower, both), high[h] = _mm512_dpbf16_ps(high[h], upper, both);
            }
        }
        const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
        UNROLLED for (int h = 0; h < HEADS; h++) {
            float* to = sums + h * size + i;
            put(to, load<Floats>(to) + (Floats)_mm512_permutex2var_ps(low[h], first, high[h]));
            if (two) put(to + LANES, load<Floats>(to + LANES) + (Floats)_mm512_permutex2var_ps(low[h], second, high[h]));
        }
    }
}

#endif

// Updates the softmax states of HEADS queries with a span: each has its maximum score, sum of weights, weighted values.
template <typename T, int HEADS>
inline void read(const QueryNumber<T>* query, int64_t d, float scaling, Span<T> span, float* state) {
    const int64_t size = d + 2;
    Floats scores[HEADS][PIECE / LANES];
    for (int64_t start = 0; start < span.tokens; start += PIECE) {
        const int64_t here = std::min(PIECE, span.tokens - start), blocks = (here + LANES - 1) / LANES;
        const T *keys = span.keys + start * d, *values = span.values + start * d;
        for (int64_t b = 0; b < blocks; b++) {
            const T* at[LANES];  // padded with the last token, which is masked below
            for (int64_t i = 0; i < LANES; i++) at[i] = keys + std::min(b * LANES + i, here - 1) * d;
            const int64_t far = LANES * d * sizeof(T);  // prefetch the values
            for (int64_t line = 0; line < far; line += LINE)
                __builtin_prefetch((const char*)values + b * far + line);
            Floats found[HEADS];
            products<HEADS>(query, d, at, found);
            for (int h = 0; h < HEADS; h++)
                scores[h][b] = choose(order() < int32_t(here - b * LANES), found[h] * scaling, splat(LOWEST));
        }
        for (int h = 0; h < HEADS; h++) {
            float *own = state + h * size, most = own[0];
            Floats highest = splat(most), sum = {};
            for (int64_t b = 0; b < blocks; b++) highest = choose(scores[h][b] > highest, scores[h][b], highest);
            most = highest_of(highest);
            for (int64_t b = 0; b < blocks; b++) sum += scores[h][b] = exponential(scores[h][b] - most);
            const float before = exponential(splat(own[0] - most))[0];
            own[0] = most;
            own[1] = own[1] * before + total(sum);
            for (int64_t i = 0; i < d; i++) own[2 + i] *= before;
        }
        weighed<HEADS>(scores, values, d, here, state + 2, size);
    }
}

template <typename T, int HEADS = HEADS_AT_ONCE>
inline void read_some(int64_t heads, const QueryNumber<T>* query, int64_t d, float scaling, Span<T> span, float* state) {
    if constexpr (HEADS > 1)
        if (heads < HEADS) return read_some<T, HEADS - 1>(heads, query, d, scaling, span, state);
    read<T, HEADS>(query, d, scaling, span, state);
}

}  // namespace
