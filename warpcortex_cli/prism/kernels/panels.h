// Packed weights: their layout in memory, packing and unpacking.
//
// A weight is scale * level + minimum, as in GGUF's Q4_1: levels have 4, 5 or 8 bits, and a group of 32 inputs of an output
// shares a scale and a minimum in fp16. Without minima the weight 0 is level 8 or 128, as in Q4_0 and Q8_0. Levels of 6
// bits, as in Q6_K, have a scale for each half of a group. Weights of 16 bits are bfloat16 or fp16.
//
//     panel   16 outputs:  header | group | header | group | ... | times
//     header  of a group: 16 scales, 16 minima or scales of the second half; without either, of two groups: 16 scales each
//     group   32 inputs:   4, 5, 6, 8 or 16 lines
//     line    64 bytes: a word of 4 bytes for each of the 16 outputs
//     word    8 levels of 4 bits, 4 of 8, or 2 numbers of 16; of 5 and 6 bits the lowest 4, and behind them one line for
//             each further bit of all 32 levels
//     times   16 numbers in fp32, a factor for each output: powers of two
//
// So a product reads memory sequentially. Shifted by 4 or 8 bits and masked, a word gives two neighbouring inputs as
// 16-bit integers: the `pair` that instructions multiply and add at once.

#pragma once

#include "vectors.h"

#include <limits>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t GROUP = 32;  // inputs, which are padded with zeros to a multiple of it
constexpr int64_t WORD_BYTES = LINE / LANES;
constexpr int64_t PAIRS = GROUP / 2;  // of a group

constexpr int MINIMA = 32;  // a format's number is its bits, plus this if groups have minima
constexpr int SIX = 6, BF16 = 16, F16 = 16 + 64;

constexpr int bits_of(int format) { return format & (MINIMA - 1); }
constexpr bool has_minima(int format) { return (format & MINIMA) != 0; }
constexpr bool unquantized(int format) { return bits_of(format) == 16; }  // numbers, not levels
// The level of the weight 0 if there are no minima.
constexpr int zero_of(int format) { return has_minima(format) || unquantized(format) ? 0 : 1 << (bits_of(format) - 1); }

inline int64_t groups_of(int64_t inputs) { return (inputs + GROUP - 1) / GROUP; }
inline int64_t panels_of(int64_t outputs) { return (outputs + LANES - 1) / LANES; }

template <int FORMAT>
constexpr int64_t GROUP_BYTES = GROUP * LANES* bits_of(FORMAT) / 8;
template <int FORMAT>
constexpr int64_t LINES_OF = GROUP_BYTES<FORMAT> / LINE;  // of a group
template <int FORMAT>
constexpr int64_t SHARING = unquantized(FORMAT) ? 0 : has_minima(FORMAT) || FORMAT == SIX ? 1 : 2;  // groups of a header
template <int FORMAT>
constexpr int64_t RUN = FORMAT == SIX ? GROUP / 2 : GROUP;  // inputs that share a scale
template <int FORMAT>
constexpr int PLANES = bits_of(FORMAT) == 5 || bits_of(FORMAT) == 6 ? bits_of(FORMAT) - 4 : 0;  // lines of single bits

// Calls `use` with the format as a type.
template <typename Use>
inline auto with_format(int64_t format, Use use) {
    switch (format) {
        case 4: return use(std::integral_constant<int, 4>());
        case 4 + MINIMA: return use(std::integral_constant<int, 4 + MINIMA>());
        case 5 + MINIMA: return use(std::integral_constant<int, 5 + MINIMA>());
        case SIX: return use(std::integral_constant<int, SIX>());
        case 8: return use(std::integral_constant<int, 8>());
        case 8 + MINIMA: return use(std::integral_constant<int, 8 + MINIMA>());
        case F16: return use(std::integral_constant<int, F16>());
        default: return use(std::integral_constant<int, BF16>());
    }
}

// Byte offsets in a panel: of groups, their scales and minima, and the outputs' factors.
template <int FORMAT>
int64_t group_at(int64_t group) {
    if constexpr (SHARING<FORMAT> == 0) return group * GROUP_BYTES<FORMAT>;
    else return group * GROUP_BYTES<FORMAT> + (group / SHARING<FORMAT> + 1) * LINE;
}

template <int FORMAT>
int64_t scales_at(int64_t group) {
    constexpr int64_t SOME = std::max<int64_t>(SHARING<FORMAT>, 1);
    return group / SOME * (LINE + SOME * GROUP_BYTES<FORMAT>) + group % SOME * (LINE / 2);
}

template <int FORMAT>
int64_t minima_at(int64_t group) { return scales_at<FORMAT>(group) + LINE / 2; }

template <int FORMAT>
int64_t times_at(int64_t groups) { return group_at<FORMAT>(groups - 1) + GROUP_BYTES<FORMAT>; }

template <int FORMAT>
int64_t panel_bytes(int64_t inputs) { return times_at<FORMAT>(groups_of(inputs)) + LANES * sizeof(float); }

// Where a group holds an input: the line of its word, and the shift of its level, or of the lowest 4 bits, in it.
struct Held {
    int64_t line;
    int shift;
};

template <int FORMAT>
inline Held held(int64_t input) {
    constexpr int64_t BITS = PLANES<FORMAT> ? 4 : bits_of(FORMAT), EACH = 16 / BITS;  // pairs of a line
    const int64_t pair = input / 2;
    return {pair / EACH, int(pair % EACH * BITS + input % 2 * 16)};
}

// fp16 to fp32 and back, rounded to the nearest, ties to even.
inline float from_half(uint16_t half) {
    const uint32_t size = uint32_t(half & 0x7fff) << 13, sign = uint32_t(half & 0x8000) << 16;
    const float found = load<float>(&size) * 0x1p112f;
    return sign ? -found : found;
}

inline uint16_t to_half(float x) {
    const uint32_t bits = load<uint32_t>(&x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to infinity
    if (size < 0x38800000) return uint16_t(sign | uint32_t(std::nearbyint(std::fabs(x) * 0x1p24f)));
    return uint16_t(sign | ((size + 0xfff + (size >> 13 & 1)) - 0x38000000) >> 13);
}

inline Halves halved(const Floats& x) {
    Halves found;
    for (int64_t i = 0; i < LANES; i++) found[i] = to_half(x[i]);
    return found;
}

// Numbers [i, i + 16) of `count`, padded with zeros.
inline Floats some_of(const float* numbers, int64_t i, int64_t count) {
    if (i + LANES <= count) return load<Floats>(numbers + i);
    Floats found = {};
    if (i < count) std::memcpy(&found, numbers + i, (count - i) * sizeof(float));
    return found;
}

// A quantized output: scales and minima of its groups, levels of its inputs, and a factor for all of it.
struct Fitted {
    std::vector<float> scales, minima;
    std::vector<uint8_t> levels;
    float times = 1;
};

inline float rounded(float x, float most) { return std::min(most, std::max(0.0f, std::nearbyint(x))); }

// The scale and minimum of a whole group with the least squared error, for levels up to `most`.
inline void fit_group(const float* weights, float most, float* scale, float* minimum) {
    const auto [least, largest] = std::minmax_element(weights, weights + GROUP);
    const float low = *least, range = *largest - low;
    *scale = range / most, *minimum = low;
    if (!(range > 1e-37f)) return;
    float parts[GROUP], sum = 0;  // normalized to [0, 1], so that squares neither underflow nor overflow
    for (int64_t i = 0; i < GROUP; i++) parts[i] = (weights[i] - low) / range, sum += parts[i];
    float best = std::numeric_limits<float>::max();
    // Clipping the outermost weights makes the steps smaller.
    for (const float within : {0.0f, -0.5f, -1.0f, 0.5f, 1.0f, 1.5f}) {
        const float by = most + within, from = within / by / 2;
        float levels = 0, level_squares = 0, products = 0;
#pragma omp simd reduction(+ : levels, level_squares, products)
        for (int64_t i = 0; i < GROUP; i++) {
            const float level = std::min(most, std::max(0.0f, std::nearbyint((parts[i] - from) * by)));
            levels += level, level_squares += level * level, products += level * parts[i];
        }
        const float spread = GROUP * level_squares - levels * levels;
        if (!(spread > 0)) continue;
        const float a = (GROUP * products - levels * sum) / spread, b = (sum - a * levels) / GROUP;
        float error = 0;
#pragma omp simd reduction(+ : error)
        for (int64_t i = 0; i < GROUP; i++) {
            const float level = std::min(most, std::max(0.0f, std::nearbyint((parts[i] - b) / a)));
            const float off = parts[i] - (a * level + b);
            error += off * off;
        }
        if (error < best) best = error, *scale = a * range, *minimum = b * range + low;
    }
}

// Rounds scales and minima to fp16, with a power of two as common factor that brings the largest near 1. The factor is 1
// if fp16 holds all of them exactly, as with those of GGUF.
inline void settle(Fitted& fit) {
    float most = 0;
    bool exact = true;
    const auto look = [&](float x, float weight) {
        exact = exact && (x == 0 || std::fabs(x) >= 0x1p-14f) && from_half(to_half(x)) == x;
        most = std::isfinite(x) ? std::max(most, std::fabs(x) * weight) : std::numeric_limits<float>::quiet_NaN();
    };
    for (float x : fit.scales) look(x, 1);
    for (float x : fit.minima) look(x, 0x1p-10f);
    for (float x : fit.scales) exact = exact && std::isfinite(x);
    for (float x : fit.minima) exact = exact && std::isfinite(x);
    if (!exact && most != 0)
        fit.times = std::isfinite(most) ? std::ldexp(1.0f, std::max(-120, std::ilogb(most)))
                                        : std::numeric_limits<float>::quiet_NaN();  // NaN, so that the output shows it
    const float by = std::isfinite(fit.times) ? 1 / fit.times : 0;
    for (float& x : fit.scales) x = by == 0 ? 0 : from_half(to_half(x * by));
    for (float& x : fit.minima) x = by == 0 ? 0 : from_half(to_half(x * by));
}

// Quantizes an output's fp32 weights.
template <int FORMAT>
Fitted fitted(const float* weights, int64_t inputs) {
    constexpr float MOST = float((1 << bits_of(FORMAT)) - 1), ZERO = float(zero_of(FORMAT));
    constexpr int64_t SIZE = RUN<FORMAT>;
    const int64_t groups = (inputs + SIZE - 1) / SIZE;
    Fitted fit;
    fit.scales.resize(groups), fit.levels.resize(groups * SIZE);
    if (has_minima(FORMAT)) fit.minima.resize(groups);
    for (int64_t g = 0; g < groups; g++) {
        float own[SIZE];
        const float* from = weights + g * SIZE;
        const int64_t here = std::min(SIZE, inputs - g * SIZE);
        for (int64_t i = 0; i < SIZE; i++) own[i] = from[std::min(i, here - 1)];
        float most = 0, sum = 0;
        for (float x : own) most = std::max(most, std::fabs(x)), sum += x;
        if (!std::isfinite(most) || sum != sum)
            fit.scales[g] = std::numeric_limits<float>::quiet_NaN();
        else if constexpr (has_minima(FORMAT))
            fit_group(own, MOST, &fit.scales[g], &fit.minima[g]);
        else
            fit.scales[g] = most / (MOST - ZERO);
    }
    settle(fit);
    for (int64_t i = 0; i < inputs; i++) {
        const float scale = fit.scales[i / SIZE] * fit.times;
        const float from = has_minima(FORMAT) ? fit.minima[i / SIZE] * fit.times : 0;
        fit.levels[i] = scale > 0 ? uint8_t(rounded((weights[i] - from) / scale + ZERO, MOST)) : uint8_t(ZERO);
    }
    return fit;
}

// Packs 8 levels of 4 bits, or 4 of 8, into a word, as `held` says: even inputs in its low half.
template <int FORMAT>
inline uint32_t word_of(const uint8_t* levels) {
    if constexpr (bits_of(FORMAT) == 8) {
        return levels[0] | levels[2] << 8 | levels[1] << 16 | uint32_t(levels[3]) << 24;
    } else {
        const uint64_t all = load<uint64_t>(levels);
        const auto every_other = [](uint64_t x) {  // bytes 0, 2, 4 and 6 as nibbles
            x &= 0x000f000f000f000f;
            x = (x | x >> 12) & 0x000000ff000000ff;
            return uint32_t((x | x >> 24) & 0xffff);
        };
        return every_other(all) | every_other(all >> 8) << 16;
    }
}

// `second`: the minimum, or the scale of the second half.
template <int FORMAT>
inline void put_scale(uint16_t scale, uint16_t second, int64_t group, int64_t lane, uint8_t* panel) {
    std::memcpy(panel + scales_at<FORMAT>(group) + 2 * lane, &scale, 2);
    if (SHARING<FORMAT> == 1) std::memcpy(panel + minima_at<FORMAT>(group) + 2 * lane, &second, 2);
}

// Bit `bit` of the levels of a group: those of even inputs, then those of odd ones, the first the lowest.
inline uint32_t plane_of(const uint8_t* levels, int bit) {
#if defined(__SSSE3__)
    const __m128i apart = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const auto part = [&](int64_t i) {
        return _mm_slli_epi16(_mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)levels + i), apart), 7 - bit);
    };
    const __m128i low = part(0), high = part(1);
    return uint32_t(_mm_movemask_epi8(_mm_unpacklo_epi64(low, high))) |
           uint32_t(_mm_movemask_epi8(_mm_unpackhi_epi64(low, high))) << 16;
#else
    uint32_t found = 0;
    for (int64_t i = 0; i < GROUP; i++) found |= uint32_t(levels[i] >> bit & 1) << (i / 2 + i % 2 * 16);
    return found;
#endif
}

// All words of a group.
template <int FORMAT>
inline void words_of(const uint8_t* levels, uint32_t* words) {
    if constexpr (PLANES<FORMAT> != 0) {
        uint8_t low[GROUP];
        for (int64_t i = 0; i < GROUP; i++) low[i] = levels[i] & 15;
        words_of<4>(low, words);
        for (int i = 0; i < PLANES<FORMAT>; i++) words[GROUP / 8 + i] = plane_of(levels, 4 + i);
        return;
    }
    constexpr int64_t EACH = 32 / bits_of(FORMAT);  // levels of a word
#if defined(__SSSE3__)
    const __m128i low = _mm_loadu_si128((const __m128i*)levels), high = _mm_loadu_si128((const __m128i*)levels + 1);
    if constexpr (bits_of(FORMAT) == 4) {
        const __m128i apart = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
        const auto joined = [&](__m128i x) { return _mm_maddubs_epi16(_mm_shuffle_epi8(x, apart), _mm_set1_epi16(0x1001)); };
        _mm_storeu_si128((__m128i*)words, _mm_packus_epi16(joined(low), joined(high)));
    } else {
        const __m128i swapped = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
        _mm_storeu_si128((__m128i*)words, _mm_shuffle_epi8(low, swapped));
        _mm_storeu_si128((__m128i*)words + 1, _mm_shuffle_epi8(high, swapped));
    }
#else
    for (int64_t i = 0; i < GROUP / EACH; i++) words[i] = word_of<FORMAT>(levels + i * EACH);
#endif
}

// Puts the words of a group of all 16 outputs into its lines.
template <int64_t COUNT>
inline void put_words(const uint32_t (*words)[COUNT], uint8_t* lines) {
#if defined(__SSE2__)
    constexpr int64_t FOURS = COUNT / 4 * 4;
    for (int64_t lane = 0; lane < LANES; lane += 4)
        for (int64_t i = 0; i < FOURS; i += 4) {
            const auto of = [&](int64_t n) { return _mm_loadu_si128((const __m128i*)(words[lane + n] + i)); };
            const auto to = [&](int64_t n, __m128i x) {
                _mm_storeu_si128((__m128i*)(lines + (i + n) * LINE + lane * WORD_BYTES), x);
            };
            const __m128i a = _mm_unpacklo_epi32(of(0), of(1)), b = _mm_unpacklo_epi32(of(2), of(3));
            const __m128i c = _mm_unpackhi_epi32(of(0), of(1)), d = _mm_unpackhi_epi32(of(2), of(3));
            to(0, _mm_unpacklo_epi64(a, b)), to(1, _mm_unpackhi_epi64(a, b));
            to(2, _mm_unpacklo_epi64(c, d)), to(3, _mm_unpackhi_epi64(c, d));
        }
#else
    constexpr int64_t FOURS = 0;
#endif
    for (int64_t i = FOURS; i < COUNT; i++)
        for (int64_t lane = 0; lane < LANES; lane++)
            std::memcpy(lines + i * LINE + lane * WORD_BYTES, &words[lane][i], WORD_BYTES);
}

template <int FORMAT>
inline void put_group(const uint8_t* levels, int64_t group, int64_t lane, uint8_t* panel) {
    constexpr int64_t COUNT = GROUP * bits_of(FORMAT) / 32;
    uint32_t words[COUNT];
    words_of<FORMAT>(levels, words);
    uint8_t* line = panel + group_at<FORMAT>(group) + lane * WORD_BYTES;
    for (int64_t i = 0; i < COUNT; i++) std::memcpy(line + i * LINE, &words[i], WORD_BYTES);
}

// Writes an output into its lane of a zeroed panel.
template <int FORMAT>
void put(const Fitted& fit, int64_t inputs, int64_t lane, uint8_t* panel) {
    constexpr int64_t RUNS = GROUP / RUN<FORMAT>;
    for (int64_t g = 0; g < groups_of(inputs); g++) {
        uint8_t levels[GROUP] = {};
        std::copy_n(&fit.levels[g * GROUP], std::min(GROUP, inputs - g * GROUP), levels);
        put_group<FORMAT>(levels, g, lane, panel);
        const bool both = RUNS == 2 && 2 * g + 1 < int64_t(fit.scales.size());
        const float second = has_minima(FORMAT) ? fit.minima[g] : both ? fit.scales[2 * g + 1] : 0;
        put_scale<FORMAT>(to_half(fit.scales[g * RUNS]), to_half(second), g, lane, panel);
    }
}

// Calls `put` with each output, its lane and its zeroed panel; it returns the output's factor.
template <int FORMAT, typename Put>
void each_output(uint8_t* out, int64_t outputs, int64_t inputs, int threads, Put put) {
    const int64_t groups = groups_of(inputs), size = panel_bytes<FORMAT>(inputs);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t number = 0; number < panels_of(outputs); number++) {
        uint8_t* panel = out + number * size;
        std::memset(panel, 0, size);
        for (int64_t lane = 0; lane < std::min(LANES, outputs - number * LANES); lane++) {
            const float times = put(number * LANES + lane, lane, panel);
            std::memcpy(panel + times_at<FORMAT>(groups) + lane * sizeof(float), &times, sizeof(float));
        }
    }
}

// Packs weights [outputs, inputs].
template <int FORMAT>
void packed(const float* weights, uint8_t* out, int64_t outputs, int64_t inputs, int threads) {
    each_output<FORMAT>(out, outputs, inputs, threads, [&](int64_t output, int64_t lane, uint8_t* panel) {
        const float* from = weights + output * inputs;
        if constexpr (unquantized(FORMAT)) {
            for (int64_t i = 0; i < inputs; i += LANES) {
                const Floats numbers = some_of(from, i, inputs);
                const Halves some = FORMAT == F16 ? halved(numbers) : narrowed(numbers);
                for (int64_t j = 0; j < LANES; j += 2)
                    std::memcpy(panel + group_at<FORMAT>((i + j) / GROUP) + held<FORMAT>((i + j) % GROUP).line * LINE +
                                    lane * WORD_BYTES,
                                (const char*)&some + 2 * j, WORD_BYTES);
            }
            return 1.0f;
        } else {
            const Fitted fit = fitted<FORMAT>(from, inputs);
            put<FORMAT>(fit, inputs, lane, panel);
            return fit.times;
        }
    });
}

// Packs levels [outputs, inputs], scales and, if the format has them, minima [outputs, groups]; of levels of 6 bits groups
// are of 16 inputs.
template <int FORMAT>
void packed_levels(const uint8_t* levels, const float* scales, const float* minima, uint8_t* out, int64_t outputs,
                   int64_t inputs, int threads) {
    if constexpr (!unquantized(FORMAT))
        each_output<FORMAT>(out, outputs, inputs, threads, [&](int64_t output, int64_t lane, uint8_t* panel) {
            const int64_t groups = (inputs + RUN<FORMAT> - 1) / RUN<FORMAT>;
            Fitted fit;
            fit.levels.assign(levels + output * inputs, levels + (output + 1) * inputs);
            fit.scales.assign(scales + output * groups, scales + (output + 1) * groups);
            if (has_minima(FORMAT)) fit.minima.assign(minima + output * groups, minima + (output + 1) * groups);
            settle(fit);
            put<FORMAT>(fit, inputs, lane, panel);
            return fit.times;
        });
}

// Unpacks the outputs `which` to fp32 [rows, inputs].
template <int FORMAT>
void unpacked(const uint8_t* weights, const int64_t* which, int64_t rows, int64_t inputs, float* out) {
    constexpr uint32_t MASK = PLANES<FORMAT> ? 15 : (1u << bits_of(FORMAT)) - 1;
    const int64_t groups = groups_of(inputs);
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t* panel = weights + which[row] / LANES * panel_bytes<FORMAT>(inputs);
        const int64_t lane = which[row] % LANES;
        const float times = load<float>(panel + times_at<FORMAT>(groups) + lane * sizeof(float));
        const auto half = [&](int64_t at) { return from_half(load<uint16_t>(panel + at + 2 * lane)); };
        for (int64_t i = 0; i < inputs; i++) {
            const int64_t g = i / GROUP;
            const Held at = held<FORMAT>(i % GROUP);
            const uint8_t* lines = panel + group_at<FORMAT>(g) + lane * WORD_BYTES;
            uint32_t level = load<uint32_t>(lines + at.line * LINE) >> at.shift & MASK;
            for (int64_t n = 0; n < PLANES<FORMAT>; n++)
                level |= (load<uint32_t>(lines + (4 + n) * LINE) >> (i % GROUP / 2 + i % 2 * 16) & 1) << (4 + n);
            float& to = out[row * inputs + i];
            if constexpr (FORMAT == F16) {
                to = from_half(uint16_t(level));
            } else if constexpr (FORMAT == BF16) {
                const uint32_t bits = level << 16;
                to = load<float>(&bits);
            } else {
                const int64_t run = i % GROUP / RUN<FORMAT>;
                to = half(scales_at<FORMAT>(g) + run * (LINE / 2)) * float(int(level) - zero_of(FORMAT));
                if (has_minima(FORMAT)) to += half(minima_at<FORMAT>(g));
                to *= times;
            }
        }
    }
}

}  // namespace
