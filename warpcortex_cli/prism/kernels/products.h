// Products of tokens and packed weights, by the vectors of any CPU. Only `dot` is written for each kind.

#pragma once

#include "tokens.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
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
#elif defined(__ARM_FEATURE_DOTPROD)
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(x));
    int8x16_t parts[4];
    int32x4_t sums[4];
    std::memcpy(parts, &weights, sizeof(parts));
    std::memcpy(sums, &sum, sizeof(sums));
    for (int i = 0; i < 4; i++) sums[i] = vdotq_s32(sums[i], parts[i], four);
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

// The same of two weights and two inputs, all of them bfloat16.
inline Floats dot(Floats sum, Bytes weights, int32_t x) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(x));
#else
    const Words two = (Words)weights, given = Words{} + uint32_t(x), second = Words{} + 0xffff0000u;
    return sum + (Floats)(two << 16) * (Floats)(given << 16) + (Floats)(two & second) * (Floats)(given & second);
#endif
}

// What products are summed up in.
template <int BITS>
using Sum = std::conditional_t<BITS == 16, Floats, Ints>;

#if defined(__AVX512VNNI__)
constexpr int TILE = 12, PAIR = 2;  // tokens and panels whose sums are held in registers at once
#else
constexpr int TILE = 4, PAIR = 1;
#endif
// Chunks whose weights stay in the first cache while all tokens take their part of them; fewer where these are few and
// numbers are made bytes, so that memory is never waited for long.
constexpr int64_t NEAR = 16, FEWER = 4;
// With so many tokens, or numbers to be made bytes, the CPU has no room left to look ahead for weights by itself; so
// far ahead they are asked for.
constexpr int BUSY = 8, AHEAD = 4096;

// One panel of weights or two, which are `panel` bytes apart.
struct Panels {
    const uint8_t* at;
    int64_t panel, count;
};

// What a task reads: pairs of panels, `next` bytes from one to the next; the last one may lack its second panel.
struct Pairs {
    const uint8_t* at;
    int64_t panel, next, count;
    bool odd;

    Panels operator[](int64_t i) const { return {at + i * next, panel, odd && i + 1 == count ? 1 : 2}; }
};

// Where what will be read is, seen from what is read: so many bytes further, and from the byte `last` of a panel on
// `jump` more.
struct Ahead {
    int64_t by, last, jump;

    const uint8_t* of(const uint8_t* line, int64_t byte) const { return line + by + (byte >= last ? jump : 0); }
};

// Chunks of panels as bytes.
struct Weights {
    const uint8_t* at;
    int64_t panel, first, chunks;  // the number of the first chunk, and how many
    bool far;                      // whether they are still in memory
};

constexpr int64_t CHUNK_BYTES = CHUNK * LANES;

// How many chunks from `first` on are taken next. Half a chunk at the end, which has to be filled up, is taken alone.
template <int BITS>
inline int64_t taken(const Tokens& x, int64_t first, int64_t most) {
    const int64_t chunks = std::min(most, x.chunks - first);
    return BITS == 8 && chunks > 1 && (first + chunks) * GROUPS<8> > x.groups ? chunks - 1 : chunks;
}

// Room for the bytes of two panels, MOST chunks at once: of numbers of 4 bits, or of half a chunk.
template <int BITS, int64_t MOST>
struct Bytewise {
    static constexpr int64_t SIZE = (BITS == 4 ? MOST : 1) * CHUNK_BYTES;
    alignas(LINE) uint8_t bytes[2 * SIZE];

    // Numbers of 4 bits become bytes here; and half a chunk becomes a whole one, for tiles would read beyond.
    Weights operator()(const Tokens& x, const Panels& panels, int64_t first, int64_t chunks, const Ahead& ahead) {
        if (BITS == 8 && (first + chunks) * GROUPS<8> <= x.groups)
            return {panels.at + first * CHUNK_BYTES, panels.panel, first, chunks, true};
        for (int64_t p = 0; p < panels.count; p++)
            for (int64_t g = first * GROUPS<8>; g < std::min((first + chunks) * GROUPS<8>, x.groups); g++) {
                const Group<BITS> group(panels.at + p * panels.panel, g);
                const uint8_t* later = ahead.of(group.at, group_at<BITS>(g));
                uint8_t* to = bytes + p * SIZE + (g - first * GROUPS<8>) * GROUP * LANES;
                for (int pair = 0; pair < GROUP / FOUR / 2; pair++) {
                    Bytes two[2];
                    group.read(pair, two);
                    __builtin_prefetch(later + pair * LINE);
                    std::memcpy(to + 2 * pair * LINE, two, sizeof(two));
                }
            }
        return {bytes, SIZE, first, chunks, false};
    }
};

// Of bfloat16 there are whole chunks only, which are taken where they lie.
template <int64_t MOST>
struct Bytewise<16, MOST> {
    Weights operator()(const Tokens&, const Panels& panels, int64_t first, int64_t chunks, const Ahead&) const {
        return {panels.at + first * CHUNK_BYTES, panels.panel, first, chunks, true};
    }
};

// Adds what weights of P panels give to the sums of the M tokens of a tile, or begins these.
template <int BITS, int P, int M>
inline void gather(const Weights& weights, const Ahead& ahead, const Tokens& x, int64_t tile, Ints* sums) {
    const int8_t* values = x.tile(tile) + weights.first * CHUNK * M;
    Sum<BITS> acc[P][M];
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++)
            acc[p][m] = weights.first == 0 ? Sum<BITS>{} : load<Sum<BITS>>(sums + p * x.places() + m);
    for (int64_t line = 0; line < weights.chunks * (CHUNK / FOUR); line++) {
        Bytes numbers[P];
        for (int p = 0; p < P; p++) {
            const uint8_t* at = weights.at + p * weights.panel + line * LINE;
            numbers[p] = load<Bytes>(at);
            if (M >= BUSY && weights.far) __builtin_prefetch(ahead.of(at, weights.first * CHUNK_BYTES + line * LINE));
        }
        for (int m = 0; m < M; m++) {
            const int32_t four = load<int32_t>(values + FOUR * (line * M + m));
            for (int p = 0; p < P; p++) acc[p][m] = dot(acc[p][m], numbers[p], four);
        }
    }
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) std::memcpy(sums + p * x.places() + m, &acc[p][m], sizeof(Ints));
}

template <int BITS, int P, int M = TILE>
inline void gather_some(int64_t count, const Weights& weights, const Ahead& ahead, const Tokens& x, int64_t tile,
                        Ints* sums) {
    if constexpr (M > 1)
        if (count < M) return gather_some<BITS, P, M - 1>(count, weights, ahead, x, tile, sums);
    gather<BITS, P, M>(weights, ahead, x, tile, sums);
}

// Behind the end of a panel, its thread looks `jump` bytes further for what it will read next.
template <int BITS, int P>
void vector_sums(const Tokens& x, const Panels& panels, int64_t jump, Ints* sums) {
    const Ahead ahead = {AHEAD, panel_bytes<BITS>(x.groups * GROUP) - AHEAD, jump};
    const int64_t most = BITS == 4 && x.count <= FEW ? FEWER : NEAR;
    Bytewise<BITS, NEAR> bytewise;
    for (int64_t first = 0, chunks = 0; first < x.chunks; first += chunks) {
        chunks = taken<BITS>(x, first, most);
        const Weights weights = bytewise(x, panels, first, chunks, ahead);
        for (int64_t tile = 0; tile < x.tiles; tile++)
            gather_some<BITS, P>(x.start(tile + 1) - x.start(tile), weights, ahead, x, tile, sums + tile * x.tall);
    }
}

}  // namespace
