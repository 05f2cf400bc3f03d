// Products of tokens and packed weights by vectors, in registers of the CPU's own width, since compilers spill wider ones.
//
// The sums of a few tokens and one or two panels stay in registers through a group; then they are scaled and added to the
// fp32 sums of earlier groups. With few tokens, words are unpacked to pairs or bytes on the fly; with many, once for all
// of them, into a buffer in L1.

#pragma once

#include "tokens.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// sum[i] plus both products of a pair of weights and a pair of inputs, in 16-bit integers.
inline Whole dot(Whole sum, Word weights, int32_t inputs) {
#if defined(__AVX512VNNI__)
    return (Whole)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(inputs));
#elif defined(__AVX512BW__)
    return sum + (Whole)_mm512_madd_epi16((__m512i)weights, _mm512_set1_epi32(inputs));
#elif defined(__AVX2__) && defined(__AVXVNNI__)
    return (Whole)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)weights, _mm256_set1_epi32(inputs));
#elif defined(__AVX2__)
    return sum + (Whole)_mm256_madd_epi16((__m256i)weights, _mm256_set1_epi32(inputs));
#elif defined(__SSE2__)
    return sum + (Whole)_mm_madd_epi16((__m128i)weights, _mm_set1_epi32(inputs));
#else
    return sum + ((Whole)(weights << 16) >> 16) * int32_t(int16_t(inputs)) + ((Whole)weights >> 16) * (inputs >> 16);
#endif
}

// The same for four levels of 4 bits and four inputs of 8. Without VNNI a lane holds two 16-bit sums, which have room for
// a whole group; `whole_sums` widens them at its end.
inline Whole dot_of_bytes(Whole sum, Word levels, int32_t inputs) {
#if defined(__AVX512VNNI__)
    return (Whole)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)levels, _mm512_set1_epi32(inputs));
#elif defined(__AVX512BW__)
    return (Whole)((Short)sum + (Short)_mm512_maddubs_epi16((__m512i)levels, _mm512_set1_epi32(inputs)));
#elif defined(__AVX2__) && defined(__AVXVNNI__)
    return (Whole)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)levels, _mm256_set1_epi32(inputs));
#elif defined(__AVX2__)
    return (Whole)((Short)sum + (Short)_mm256_maddubs_epi16((__m256i)levels, _mm256_set1_epi32(inputs)));
#elif defined(__ARM_FEATURE_DOTPROD)
    return (Whole)vdotq_s32((int32x4_t)sum, (int8x16_t)levels, vreinterpretq_s8_s32(vdupq_n_s32(inputs)));
#else
    const auto input = [inputs](int i) { return int32_t(int8_t(uint32_t(inputs) >> 8 * i)); };
    const int32_t even = (input(0) & 0xffff) | int32_t(uint32_t(input(2)) << 16);
    const int32_t odd = (input(1) & 0xffff) | int32_t(uint32_t(input(3)) << 16);
    return dot(dot(sum, levels & 0x00ff00ffu, even), levels >> 8 & 0x00ff00ffu, odd);
#endif
}

inline Whole whole_sums(Whole sum) {
#if defined(__AVX512BW__) && !defined(__AVX512VNNI__)
    return (Whole)_mm512_madd_epi16((__m512i)sum, _mm512_set1_epi16(1));
#elif defined(__AVX2__) && !defined(__AVX512F__) && !defined(__AVXVNNI__)
    return (Whole)_mm256_madd_epi16((__m256i)sum, _mm256_set1_epi16(1));
#else
    return sum;
#endif
}

// The same for two weights and two inputs in bfloat16.
inline Real dot(Real sum, Word weights, int32_t inputs) {
#if defined(__AVX512BF16__)
    return (Real)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(inputs));
#else
    const Word given = Word{} + uint32_t(inputs);
    return sum + (Real)(weights << 16) * (Real)(given << 16) + (Real)(weights & 0xffff0000u) * (Real)(given & 0xffff0000u);
#endif
}

// fp16 in the lower half of each word to fp32.
inline Real real_of_halves(Word wide) {
    const Word size = (wide & 0x7fffu) << 13;
    const Real found = load<Real>(&size) * 0x1p112f;
    const Word bits = (Word)found | (wide & 0x8000u) << 16;
    return load<Real>(&bits);
}

// fp16 to a register of fp32.
inline Real reals(const uint8_t* halves) {
#if defined(__AVX512F__)
    return (Real)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)halves));
#elif defined(__AVX2__) && defined(__F16C__)
    return (Real)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)halves));
#else
    return real_of_halves(__builtin_convertvector(load<Half>(halves), Word));
#endif
}

// The first or the second fp16 number of each word. The words' halves are brought apart once for both.
inline Real half_of(Word word, int k) {
#if defined(__AVX512BW__)
    static const uint16_t APART[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                       1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
    const __m512i apart = _mm512_permutexvar_epi16(_mm512_loadu_si512(APART), (__m512i)word);
    return (Real)_mm512_cvtph_ps(k == 0 ? _mm512_castsi512_si256(apart) : _mm512_extracti64x4_epi64(apart, 1));
#elif defined(__AVX2__) && defined(__F16C__)
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m256i apart = _mm256_permute4x64_epi64(_mm256_shuffle_epi8((__m256i)word, order), 0xd8);
    return (Real)_mm256_cvtph_ps(k == 0 ? _mm256_castsi256_si128(apart) : _mm256_extracti128_si256(apart, 1));
#else
    return real_of_halves(k == 0 ? word & 0xffffu : word >> 16);
#endif
}

// How a line's words are unpacked: `pair` number k of EACH holds two inputs of 16 bits, four of 8, or one in fp32.
template <int FORMAT>
struct PackedLines {
    static constexpr int EACH = 16 / bits_of(FORMAT);
    static Word pair(Word word, int k) {
        constexpr uint32_t MASK = unquantized(FORMAT) ? 0xffffffffu : ((1u << bits_of(FORMAT)) - 1) * 0x00010001u;
        return (Word)((Short)word >> k * bits_of(FORMAT)) & MASK;
    }
};

// Levels of 5 or 6 bits: `plane` n holds bit 4 + n of all of a group's. With 6 the level 32, the weight 0, becomes 0, so
// that no half of a group needs the sum of its inputs.
template <int FORMAT>
struct PackedPlanes {
    static constexpr int EACH = 4;
    static Word pair(Word word, int k, const Word* planes, int number) {
        Word found = (Word)((Short)word >> 4 * k) & 0x000f000fu;
        UNROLLED for (int n = 0; n < PLANES<FORMAT>; n++)
            found |= ((Word)((Short)planes[n] >> number) & 0x00010001u) << (4 + n);
        if constexpr (FORMAT == SIX) return (Word)((Short)found - uint16_t(zero_of(SIX)));
        else return found;
    }
};

struct PackedBytes {  // four levels of 4 bits, as bytes
    static constexpr int EACH = 2;
    static Word pair(Word word, int k) { return (Word)((Short)word >> 4 * k) & 0x0f0f0f0fu; }
};

struct Prepared {
    static constexpr int EACH = 1;
    static Word pair(Word word, int) { return word; }
};

template <int FORMAT>
struct Widened {  // bfloat16 or fp16 to fp32
    static constexpr int EACH = 2;
    static Word pair(Word word, int k) {
        if constexpr (FORMAT == BF16) return k == 0 ? word << 16 : word & 0xffff0000u;
        else return (Word)half_of(word, k);
    }
};

// From BUSY tokens on, or when unpacking, the CPU does not run ahead to the next weights by itself, so these are
// prefetched AHEAD bytes ahead.
constexpr int64_t BUSY = 8, AHEAD = 4096;
// NEAR: groups unpacked at a time. SHARED: tokens from which on groups are unpacked once for all; fewer unpack on the fly.
constexpr int64_t NEAR = 8;
constexpr int SHARED = NATIVE == 64 ? 2 * TILE + 1 : std::min(4, TILE) + 1;

// One or two panels of weights, `panel` bytes apart.
struct Panels {
    const uint8_t* at;
    int64_t panel, count;
};

// A task's pairs of panels, `next` bytes apart; the last one may lack its second panel.
struct Pairs {
    const uint8_t* at;
    int64_t panel, next, count;
    bool odd;

    Panels operator[](int64_t i) const { return {at + i * next, panel, odd && i + 1 == count ? 1 : 2}; }
};

// What to prefetch while reading a line: `by` bytes further, and from byte `last` of a panel on `jump` more.
struct Ahead {
    int64_t by, last, jump;

    const uint8_t* of(const uint8_t* line, int64_t byte) const { return line + by + (byte >= last ? jump : 0); }
};

// Some groups of panels. If unpacked, they are in `held`: panels `apart` bytes apart, groups `size` bytes.
struct Weights {
    const uint8_t *panels, *held;
    int64_t panel, apart, size;  // `panel`: bytes from one packed panel to the next
    int64_t first, count;        // groups
    const uint8_t* soon = nullptr;  // if unpacked: what is read next; each group prefetches `lines` of it
    int64_t lines = 0;
};

// Adds the products of some groups of P panels and the M tokens of a tile to the tile's sums. `Form` says how lines are
// unpacked, KIND how tokens are stored.
template <int FORMAT, typename Form, Kind KIND, int P, int M>
inline void gather(const Weights& weights, const Ahead& ahead, const Tokens& x, int64_t tile, Floats* sums) {
    constexpr bool ROUNDED = KIND == WHOLE || KIND == BYTES;
    typedef std::conditional_t<ROUNDED, Whole, Real> Acc;
    constexpr int EACH = Form::EACH, WORDS = words_of(KIND);
    constexpr int RUNS = GROUP / RUN<FORMAT>, SOME = WORDS / EACH / RUNS;  // lines that share a scale
    constexpr bool STRAIGHT = !std::is_same<Form, Prepared>::value, FEW_ONLY = M < BUSY && unquantized(FORMAT);
    const int64_t places = x.places();
    const int8_t* values = x.tile(tile) + weights.first * WORDS * WORD_BYTES * M;
    const int32_t* own = ROUNDED ? x.tile_sums(tile) + weights.first * M : nullptr;
    const float* scales = KIND == BYTES ? x.tile_scales(tile) + weights.first * M : nullptr;
    Acc acc[P][M][PARTS];
    const auto begin = [&] {
        UNROLLED for (int m = 0; m < M; m++)
            UNROLLED for (int p = 0; p < P; p++)
                UNROLLED for (int part = 0; part < PARTS; part++)
                    if constexpr (KIND == WHOLE && FORMAT != SIX && zero_of(FORMAT) != 0) acc[p][m][part] = Acc{} + own[m];
                    else acc[p][m][part] = Acc{};
    };
    const auto place = [&](int p, int m, int part) { return (float*)(sums + p * places + m) + part * (LANES / PARTS); };
    if constexpr (!ROUNDED)
        UNROLLED for (int p = 0; p < P; p++)
            UNROLLED for (int m = 0; m < M; m++)
                UNROLLED for (int part = 0; part < PARTS; part++) acc[p][m][part] = load<Real>(place(p, m, part));
    for (int64_t g = 0; g < weights.count; g++, values += WORDS * WORD_BYTES * M) {
        const int64_t group = weights.first + g;
        const uint8_t* at = STRAIGHT ? weights.panels + group_at<FORMAT>(group) : weights.held + g * weights.size;
        const int64_t apart = STRAIGHT ? weights.panel : weights.apart;
        if constexpr (!STRAIGHT)  // spread evenly: too many prefetches at once stall
            for (int64_t line = 0; line < weights.lines; line++)
                for (int p = 0; p < P; p++)
                    __builtin_prefetch(weights.soon + p * weights.panel + (g * weights.lines + line) * LINE, 0, 2);
        constexpr int SINGLE = STRAIGHT ? PLANES<FORMAT> : 0;
        Word planes[P][PARTS][std::max(SINGLE, 1)];
        UNROLLED for (int p = 0; p < P; p++)
            UNROLLED for (int part = 0; part < PARTS; part++)
                UNROLLED for (int n = 0; n < SINGLE; n++)
                    planes[p][part][n] = load<Word>(at + p * apart + (LINES_OF<4> + n) * LINE + part * NATIVE);
        const auto step = [&](int line) {
            Word words[P][PARTS];
            UNROLLED for (int p = 0; p < P; p++) {
                const uint8_t* from = at + p * apart + line * LINE;
                UNROLLED for (int part = 0; part < PARTS; part++) words[p][part] = load<Word>(from + part * NATIVE);
                if (STRAIGHT && !FEW_ONLY)
                    __builtin_prefetch(ahead.of(from, group_at<FORMAT>(group) + line * LINE));
            }
            UNROLLED for (int k = 0; k < EACH; k++) {
                Word pairs[P][PARTS];
                UNROLLED for (int p = 0; p < P; p++)
                    UNROLLED for (int part = 0; part < PARTS; part++)
                        if constexpr (SINGLE != 0)
                            pairs[p][part] = pinned(Form::pair(words[p][part], k, planes[p][part], line * EACH + k));
                        else
                            pairs[p][part] = pinned(Form::pair(words[p][part], k));
                UNROLLED for (int m = 0; m < M; m++) {
                    const int8_t* value = values + WORD_BYTES * ((line * EACH + k) * M + m);
                    UNROLLED for (int p = 0; p < P; p++) {
                        UNROLLED for (int part = 0; part < PARTS; part++) {
                            Acc& to = acc[p][m][part];
                            if constexpr (KIND == FULL) to += (Real)pairs[p][part] * load<float>(value);
                            else if constexpr (KIND == BYTES)
                                to = dot_of_bytes(to, pairs[p][part], load<int32_t>(value));
                            else to = dot(to, pairs[p][part], load<int32_t>(value));
                        }
                        UNROLLED for (int part = 0; part < PARTS; part++)
                            acc[p][m][part] = pinned(acc[p][m][part]);
                    }
                }
            }
        };
        UNROLLED for (int run = 0; run < RUNS; run++) {
            if constexpr (ROUNDED) begin();
            if constexpr (KIND == BYTES && NATIVE < 64) {  // unrolled, so that the first sums need no zeros
                UNROLLED for (int line = 0; line < SOME; line++) step(line);
            } else {
                for (int line = run * SOME; line < (run + 1) * SOME; line++) step(line);
            }
            if constexpr (ROUNDED) {
                UNROLLED for (int p = 0; p < P; p++)
                    UNROLLED for (int part = 0; part < PARTS; part++) {
                        const uint8_t* panel = weights.panels + p * weights.panel + part * (NATIVE / 2);
                        const Real scale = reals(panel + scales_at<FORMAT>(group) + run * (LINE / 2));
                        Real minimum = {};
                        if constexpr (has_minima(FORMAT)) minimum = reals(panel + minima_at<FORMAT>(group));
                        else if constexpr (KIND == BYTES) minimum = scale * -float(zero_of(FORMAT));
                        UNROLLED for (int m = 0; m < M; m++) {
                            float* to = place(p, m, part);
                            Real sum = load<Real>(to);
                            if constexpr (KIND == BYTES) sum += real(whole_sums(acc[p][m][part])) * (scale * scales[m]);
                            else sum += real(acc[p][m][part]) * scale;
                            if constexpr (has_minima(FORMAT) || KIND == BYTES) sum += minimum * load<float>(own + m);
                            store(to, sum);
                        }
                    }
            }
        }
        if constexpr (ROUNDED) {
            own += M;
            if constexpr (KIND == BYTES) scales += M;
            compiler_barrier();  // or the compiler keeps copies of the sums
        }
    }
    if constexpr (!ROUNDED)
        UNROLLED for (int p = 0; p < P; p++)
            UNROLLED for (int m = 0; m < M; m++)
                UNROLLED for (int part = 0; part < PARTS; part++)
                    store(place(p, m, part), acc[p][m][part]);
}

template <int FORMAT, typename Form, Kind KIND, int P, int M = TILE>
inline void gather_some(int64_t count, const Weights& weights, const Ahead& ahead, const Tokens& x, int64_t tile,
                        Floats* sums) {
    if constexpr (M > 1)
        if (count < M) return gather_some<FORMAT, Form, KIND, P, M - 1>(count, weights, ahead, x, tile, sums);
    gather<FORMAT, Form, KIND, P, M>(weights, ahead, x, tile, sums);
}

// Unpacks a group's lines for many tokens.
template <int FORMAT, typename Form>
inline void prepare(const uint8_t* group, uint8_t* to) {
    constexpr int64_t SINGLE = PLANES<FORMAT>, LINES = LINES_OF<FORMAT> - SINGLE;
    for (int part = 0; part < PARTS; part++) {
        const auto line_of = [&](int64_t line) { return load<Word>(group + line * LINE + part * NATIVE); };
        Word planes[std::max<int64_t>(SINGLE, 1)];
        for (int64_t n = 0; n < SINGLE; n++) planes[n] = line_of(LINES + n);
        for (int64_t line = 0; line < LINES; line++) {
            const Word word = line_of(line);
            for (int k = 0; k < Form::EACH; k++) {
                uint8_t* at = to + (line * Form::EACH + k) * LINE + part * NATIVE;
                if constexpr (SINGLE != 0) store(at, Form::pair(word, k, planes, int(line) * Form::EACH + k));
                else store(at, Form::pair(word, k));
            }
        }
    }
}

// Adds the products of panels and all tokens to the sums. What the thread reads next begins `jump` bytes behind the
// panel's end.
template <int FORMAT, Kind KIND, int P>
void vector_sums(const Tokens& x, const Panels& panels, int64_t jump, Floats* sums) {
    typedef std::conditional_t<KIND == FULL, Widened<FORMAT>,
                               std::conditional_t<KIND == BYTES, PackedBytes,
                                                  std::conditional_t<PLANES<FORMAT> != 0, PackedPlanes<FORMAT>,
                                                                     PackedLines<FORMAT>>>> Form;
    const Ahead ahead = {AHEAD, panel_bytes<FORMAT>(x.inputs) - AHEAD, jump};
    const auto each_tile = [&](auto use) {
        for (int64_t tile = 0; tile < x.tiles; tile++)
            use(x.start(tile + 1) - x.start(tile), tile, sums + tile * x.tall);
    };
    constexpr int FEWER = PLANES<FORMAT> ? std::min(SHARED, 4) : SHARED;  // unpacking takes longer there
    if (unquantized(FORMAT) || x.count < FEWER) {
        for (int64_t first = 0; first < x.groups; first += NEAR) {
            const Weights some = {panels.at, nullptr, panels.panel, 0, 0, first, std::min(NEAR, x.groups - first)};
            each_tile([&](int64_t count, int64_t tile, Floats* to) {
                gather_some<FORMAT, Form, KIND, P, unquantized(FORMAT) ? TILE : std::min(TILE, FEWER - 1)>(count, some, ahead, x, tile, to);
            });
        }
        return;
    }
    constexpr int64_t SIZE = words_of(KIND) * LINE;
    alignas(LINE) uint8_t room[P * NEAR * SIZE];
    for (int64_t first = 0; first < x.groups; first += NEAR) {
        const int64_t count = std::min(NEAR, x.groups - first), next = first + count;
        for (int64_t g = 0; g < count; g++)
            for (int p = 0; p < P; p++)
                prepare<FORMAT, Form>(panels.at + p * panels.panel + group_at<FORMAT>(first + g),
                                      room + (p * NEAR + g) * SIZE);
        const bool last = next == x.groups;  // then prefetch what this thread reads after these panels
        const int64_t groups = std::min(NEAR, last ? x.groups : x.groups - next);
        const int64_t soon = (scales_at<FORMAT>(groups) + LINE - 1) / LINE, all = x.tiles * count;
        Weights some = {panels.at, room, panels.panel, NEAR * SIZE, SIZE, first, count};
        some.lines = (soon + all - 1) / all;
        some.soon = panels.at + (last ? panel_bytes<FORMAT>(x.inputs) + jump : scales_at<FORMAT>(next));
        each_tile([&](int64_t here, int64_t tile, Floats* to) {
            gather_some<FORMAT, Prepared, KIND, P>(here, some, ahead, x, tile, to);
            some.soon += count * some.lines * LINE;
        });
    }
}

}  // namespace
