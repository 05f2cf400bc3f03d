// Products of tokens and packed weights, by the vectors of any CPU. Only `dot` is written for each kind.

#pragma once

#include "tokens.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// sum[i] + the products of the four weights of lane i, as bytes, with the four signed ones of `x`: of weights plus 128
// where a CPU multiplies unsigned numbers only, which is what EXTRA says.
#if defined(__AVX512VNNI__)
constexpr int EXTRA = ZERO;
inline Ints dot(Ints sum, Bytes weights, int32_t x) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(x));
}
#else
constexpr int EXTRA = 0;
inline Ints dot(Ints sum, Bytes weights, int32_t x) {
    weights ^= ZERO;
#if defined(__AVX2__)
    // Pairs are summed in 16 bits, which hold 2 * 127 * 127: so the signs of weights go over to the tokens.
    const __m256i four = _mm256_set1_epi32(x), ones = _mm256_set1_epi16(1);
    __m256i parts[2], sums[2];
    std::memcpy(parts, &weights, sizeof(parts));
    std::memcpy(sums, &sum, sizeof(sums));
    for (int i = 0; i < 2; i++) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(parts[i]), _mm256_sign_epi8(four, parts[i]));
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, ones));
    }
    std::memcpy(&sum, sums, sizeof(sums));
#else
    int8_t four[FOUR];
    std::memcpy(four, &x, FOUR);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < FOUR; j++) sum[i] += int8_t(weights[FOUR * i + j]) * four[j];
#endif
    return sum;
}
#endif

#if defined(__AVX512VNNI__)
constexpr int TILE = 12, PAIR = 2;  // tokens and panels whose sums are held in registers at once
#else
constexpr int TILE = 4, PAIR = 1;
#endif
constexpr int64_t NEAR = 16;  // chunks whose weights stay in the first cache while all tokens take their part of them
// With so many tokens the CPU has no room left to look ahead for weights by itself; so far ahead they are asked for.
constexpr int BUSY = 8, AHEAD = 4096;

// Adds what chunks [first, last) of P panels, `panel` bytes apart, give to the sums of the M tokens of a tile, which
// chunk 0 begins.
template <int BITS, int P, int M>
inline void gather(const uint8_t* panels, int64_t panel, const Tokens& x, int64_t tile, int64_t first, int64_t last,
                   Ints* sums) {
    const int8_t* values = x.tile(tile);
    Ints acc[P][M];
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) acc[p][m] = first == 0 ? Ints{} : sums[p * x.places() + m];
    for (int64_t g = first * (CHUNK / GROUP); g < std::min(last * (CHUNK / GROUP), x.groups); g++) {
        const int8_t* group = values + g * GROUP * M;
        for (int pair = 0; pair < GROUP / FOUR / 2; pair++) {
            Bytes two[P][2];
            for (int p = 0; p < P; p++) {
                const Group<BITS> weights(panels + p * panel, x.groups, g);
                weights.read(pair, two[p]);
                if (M >= BUSY)
                    for (int i = 0; i < BITS / 4; i++)
                        __builtin_prefetch(weights.at + (pair * BITS / 4 + i) * LINE + AHEAD);
            }
            for (int i = 0; i < 2; i++)
                for (int m = 0; m < M; m++) {
                    const int32_t four = load<int32_t>(group + FOUR * ((2 * pair + i) * M + m));
                    for (int p = 0; p < P; p++) acc[p][m] = dot(acc[p][m], two[p][i], four);
                }
        }
    }
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) sums[p * x.places() + m] = acc[p][m];
}

template <int BITS, int P, int M = TILE>
inline void gather_some(int64_t count, const uint8_t* panels, int64_t panel, const Tokens& x, int64_t tile,
                        int64_t first, int64_t last, Ints* sums) {
    if constexpr (M > 1)
        if (count < M) return gather_some<BITS, P, M - 1>(count, panels, panel, x, tile, first, last, sums);
    gather<BITS, P, M>(panels, panel, x, tile, first, last, sums);
}

template <int BITS, int P>
void vector_sums(const Tokens& x, const uint8_t* panels, int64_t panel, Ints* sums) {
    for (int64_t first = 0; first < x.chunks; first += NEAR)
        for (int64_t tile = 0; tile < x.tiles(); tile++) {
            const int64_t start = x.start(tile), last = std::min(first + NEAR, x.chunks);
            gather_some<BITS, P>(x.start(tile + 1) - start, panels, panel, x, tile, first, last, sums + tile * x.tall());
        }
}

}  // namespace
