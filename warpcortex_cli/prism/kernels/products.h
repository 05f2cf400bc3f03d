// Products with packed weights of 4 or 8 bits. Only `dot` is written for each kind of CPU.

#pragma once

#include "vectors.h"

#include <limits>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t GROUP = 32;

// sum[i] + the products of four unsigned bytes of lane i with the four signed ones of `x`.
template <int BITS>
inline Ints dot(Ints sum, Bytes weights, int32_t x) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(x));
#elif defined(__AVX2__)
    // Pairs are summed in 16 bits, which hold 2 * 15 * 127 but not 2 * 255 * 127: so 8 bits are taken as 4 and 4.
    const __m256i four = _mm256_set1_epi32(x), low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i parts[2], sums[2];
    std::memcpy(parts, &weights, 64);
    std::memcpy(sums, &sum, 64);
    for (int i = 0; i < 2; i++) {
        const __m256i small = BITS == 4 ? parts[i] : _mm256_and_si256(parts[i], low);
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(small, four), ones));
        if (BITS == 8) {
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(parts[i], 4), low);
            const __m256i more = _mm256_madd_epi16(_mm256_maddubs_epi16(high, four), ones);
            sums[i] = _mm256_add_epi32(sums[i], _mm256_slli_epi32(more, 4));
        }
    }
    std::memcpy(&sum, sums, 64);
    return sum;
#else
    int8_t four[4];
    std::memcpy(four, &x, 4);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++) sum[i] += int32_t(weights[4 * i + j]) * four[j];
    return sum;
#endif
}

// Weights lie in panels of 16 outputs. A panel holds groups of 32 inputs, one behind the other, and in a group four
// inputs of all 16 outputs side by side, so that a product reads memory in one straight line. With 4 bits, each group is
// followed by the scales of its outputs (bfloat16); with 8 bits, a panel ends with them (float).

template <int BITS>
constexpr int64_t NUMBERS = LANES * GROUP * BITS / 8;  // bytes of a group's numbers
template <int BITS>
constexpr int64_t STEP = NUMBERS<BITS> + (BITS == 4 ? 2 * LANES : 0);  // from one group to the next
template <int BITS>
constexpr int ZERO = 1 << (BITS - 1);  // what 0 is stored as

inline int64_t groups_of(int64_t inputs) { return (inputs + GROUP - 1) / GROUP; }
inline int64_t panels_of(int64_t outputs) { return (outputs + LANES - 1) / LANES; }

template <int BITS>
int64_t panel_bytes(int64_t inputs) { return groups_of(inputs) * STEP<BITS> + (BITS == 8 ? 4 * LANES : 0); }

#if defined(__AVX512VNNI__)
constexpr int TILE = 12, PAIR = 2;  // tokens and panels whose sums are held in registers at once
#else
constexpr int TILE = 4, PAIR = 1;
#endif
constexpr int64_t FEW = 12;  // up to so many tokens, other threads would take longer to come than small work does
constexpr int64_t NEAR = 32;  // groups whose weights stay in the first cache while all tokens take their part of them
// With so many tokens the CPU has no room left to look ahead for weights by itself; so far ahead they are asked for.
constexpr int BUSY = 8, AHEAD = 4096;

// Tokens in int8, each with a scale of its own, in tiles: four inputs of all its tokens side by side.
struct Tokens {
    int64_t rows, groups;
    std::vector<int8_t> values;
    std::vector<float> scales;
    std::vector<int32_t> offsets;  // [tile, group, token]: what the weights' zero adds to a sum, taken away

    int64_t tiles() const { return (rows + TILE - 1) / TILE; }
    int64_t start(int64_t tile) const { return rows * tile / tiles(); }

    void read(const float* x, int64_t count, int64_t inputs, int zero, int threads) {
        rows = count;
        groups = groups_of(inputs);
        values.assign(rows * groups * GROUP, 0);
        scales.resize(rows);
        offsets.assign(rows * groups, 0);
#pragma omp parallel for num_threads(threads) if (rows > FEW)
        for (int64_t tile = 0; tile < tiles(); tile++) {
            const int64_t first = start(tile), wide = start(tile + 1) - first;
            for (int64_t row = first; row < first + wide; row++) {
                const float* from = x + row * inputs;
                int8_t* to = &values[first * groups * GROUP] + 4 * (row - first);
                int32_t* offset = &offsets[first * groups] + row - first;
                // The largest, as bits: without signs these are in the same order, infinity and NaN last.
                uint32_t bits = 0;
                for (int64_t i = 0; i < inputs; i++) bits = std::max(bits, load<uint32_t>(from + i) & 0x7fffffff);
                const float most = load<float>(&bits);
                // What is not finite shall be seen in what it gives, not rounded to something.
                scales[row] = std::isfinite(most) ? most / 127 : std::numeric_limits<float>::quiet_NaN();
                if (!std::isfinite(most) || most == 0) continue;
                const float by = 127 / most;
                for (int64_t g = 0; g < groups; g++) {
                    float group[GROUP] = {};
                    int8_t numbers[GROUP];
                    int32_t sum = 0;
                    std::copy_n(from + g * GROUP, std::min(GROUP, inputs - g * GROUP), group);
                    for (int i = 0; i < GROUP; i++) numbers[i] = int8_t(std::nearbyint(group[i] * by));
                    for (int i = 0; i < GROUP; i++) sum += numbers[i];
                    offset[g * wide] = -zero * sum;
                    for (int i = 0; i < GROUP; i += 4) std::memcpy(to + (g * GROUP + i) * wide, numbers + i, 4);
                }
            }
        }
    }
};

// Adds what groups [first, last) of P panels give to the sums [P, rows] of the M tokens of a tile that begins with
// `row`.
template <int BITS, int P, int M>
inline void gather(const uint8_t* panels, int64_t panel, const Tokens& x, int64_t row, int64_t first, int64_t last,
                   Floats* sums) {
    const int8_t* values = &x.values[row * x.groups * GROUP];
    const int32_t* offsets = &x.offsets[row * x.groups];
    Ints acc[P][M] = {};
    Floats whole[P][M];
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) whole[p][m] = sums[p * x.rows + m];
    for (int64_t g = first; g < last; g++) {
        const uint8_t* weights = panels + g * STEP<BITS>;
        const int8_t* fours = values + g * GROUP * M;
        if (BITS == 4)
            for (int m = 0; m < M; m++)
                for (int p = 0; p < P; p++) acc[p][m] = splat(offsets[g * M + m]);
        for (int part = 0; part < NUMBERS<BITS> / 64; part++) {
            Bytes numbers[P];
            for (int p = 0; p < P; p++) {
                const uint8_t* at = weights + p * panel + 64 * part;
                numbers[p] = load<Bytes>(at);
                if (M >= BUSY) __builtin_prefetch(at + AHEAD);
            }
            for (int half = 0; half < 8 / BITS; half++)
                for (int m = 0; m < M; m++) {
                    const int32_t four = load<int32_t>(fours + 4 * ((8 / BITS * part + half) * M + m));
                    for (int p = 0; p < P; p++) {
                        const Bytes some = BITS == 8 ? numbers[p] : half ? numbers[p] >> 4 : numbers[p] & 15;
                        acc[p][m] = dot<BITS>(acc[p][m], some, four);
                    }
                }
        }
        if (BITS == 4)
            for (int p = 0; p < P; p++) {
                const Floats scale = widened(load<Halves>(weights + p * panel + NUMBERS<BITS>));
                for (int m = 0; m < M; m++) whole[p][m] += __builtin_convertvector(acc[p][m], Floats) * scale;
            }
    }
    for (int m = 0; m < M; m++) {
        int32_t offset = 0;
        if (BITS == 8)
            for (int64_t g = first; g < last; g++) offset += offsets[g * M + m];
        for (int p = 0; p < P; p++) {
            if (BITS == 8) whole[p][m] += __builtin_convertvector(acc[p][m] + offset, Floats);
            sums[p * x.rows + m] = whole[p][m];
        }
    }
}

template <int BITS, int P, int M = TILE>
inline void gather_some(int64_t count, const uint8_t* panels, int64_t panel, const Tokens& x, int64_t row,
                        int64_t first, int64_t last, Floats* sums) {
    if constexpr (M > 1)
        if (count < M) return gather_some<BITS, P, M - 1>(count, panels, panel, x, row, first, last, sums);
    gather<BITS, P, M>(panels, panel, x, row, first, last, sums);
}

// Outputs of P panels, the first of which is `number`, for all tokens.
template <int BITS, int P>
void product(const Tokens& x, const uint8_t* weights, const float* bias, float* out, int64_t number, int64_t inputs,
             int64_t outputs, Floats* sums) {
    const int64_t size = panel_bytes<BITS>(inputs);
    std::fill_n(sums, P * x.rows, Floats{});
    for (int64_t first = 0; first < x.groups; first += NEAR)
        for (int64_t tile = 0; tile < x.tiles(); tile++) {
            const int64_t row = x.start(tile), count = x.start(tile + 1) - row;
            const int64_t last = std::min(first + NEAR, x.groups);
            gather_some<BITS, P>(count, weights + number * size, size, x, row, first, last, sums + row);
        }
    for (int64_t p = 0; p < P; p++) {
        const int64_t start = (number + p) * LANES, here = std::min(LANES, outputs - start);
        const Floats scale =
            BITS == 8 ? load<Floats>(weights + (number + p) * size + x.groups * STEP<BITS>) : splat(1.0f);
        float more[LANES] = {};
        if (bias) std::copy_n(bias + start, here, more);
        for (int64_t row = 0; row < x.rows; row++) {
            const Floats found = sums[p * x.rows + row] * (scale * x.scales[row]) + load<Floats>(more);
            std::memcpy(out + row * outputs + start, &found, here * sizeof(float));
        }
    }
}

template <int BITS, int P>
void all_products(const Tokens& x, const uint8_t* weights, const float* bias, float* out, int64_t inputs,
                  int64_t outputs, int threads) {
    const int64_t panels = panels_of(outputs), whole = panels / P, tasks = whole + panels % P;
    const int64_t share = std::max<int64_t>(1, tasks / (8 * threads));
#pragma omp parallel num_threads(threads)
    {
        std::vector<Floats> sums(P * x.rows);
        // In small shares: other programs take time of single cores, and nobody shall wait for the slowest.
#pragma omp for schedule(dynamic, share)
        for (int64_t task = 0; task < tasks; task++)
            if (task < whole)
                product<BITS, P>(x, weights, bias, out, task * P, inputs, outputs, sums.data());
            else
                product<BITS, 1>(x, weights, bias, out, whole * P + task - whole, inputs, outputs, sums.data());
    }
}

template <int BITS>
void multiplied(const float* x, const uint8_t* weights, const float* bias, float* out, int64_t rows, int64_t inputs,
                int64_t outputs, int threads) {
    static thread_local Tokens tokens;
    tokens.read(x, rows, inputs, ZERO<BITS>, threads);
    if (BITS == 8 && rows > BUSY)  // as many sums as registers hold; with 4 bits these are taken by sums of sums
        all_products<BITS, PAIR>(tokens, weights, bias, out, inputs, outputs, threads);
    else
        all_products<BITS, 1>(tokens, weights, bias, out, inputs, outputs, threads);
}

// The scale of a group whose numbers of 4 bits, times it, are nearest to its weights in squares.
float scale_of(const float* weights) {
    float most = 0;
    for (int i = 0; i < GROUP; i++)
        if (std::fabs(weights[i]) > std::fabs(most)) most = weights[i];
    float best = 0, found = most / -8;
    for (int step = -8; step <= 8 && most != 0; step++) {  // the largest weight need not be met exactly
        const float by = (0.2f * float(step) - 8) / most;
        float product = 0, square = 0;
        for (int i = 0; i < GROUP; i++) {
            const float number = std::min(7.0f, std::max(-8.0f, std::nearbyint(weights[i] * by)));
            product += weights[i] * number;
            square += number * number;
        }
        if (product * product > best * square) {
            best = product * product / square;
            found = product / square;
        }
    }
    return found;
}

template <int BITS>
inline void store(uint8_t* group, int64_t lane, const float* weights, float scale) {
    for (int i = 0; i < GROUP; i++) {
        const float number = scale != 0 ? std::nearbyint(weights[i] / scale) : 0;
        const int plain = int(std::min<float>(ZERO<BITS> - 1, std::max<float>(-ZERO<BITS>, number))) + ZERO<BITS>;
        const int four = i / 4, place = 4 * int(lane) + i % 4;
        if (BITS == 4)
            group[64 * (four / 2) + place] |= uint8_t(plain << (four % 2 ? 4 : 0));
        else
            group[64 * four + place] = uint8_t(plain);
    }
}

template <int BITS>
void packed(const float* weights, uint8_t* out, int64_t outputs, int64_t inputs, int threads) {
    const int64_t groups = groups_of(inputs);
    std::memset(out, 0, panels_of(outputs) * panel_bytes<BITS>(inputs));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t output = 0; output < panels_of(outputs) * LANES; output++) {
        uint8_t* panel = out + output / LANES * panel_bytes<BITS>(inputs);
        const float* from = weights + output * inputs;
        const int64_t lane = output % LANES, here = output < outputs ? inputs : 0;
        float scale = 0;
        if (BITS == 8) {
            for (int64_t i = 0; i < here; i++) scale = std::max(scale, std::fabs(from[i]) / 127);
            std::memcpy(panel + groups * STEP<BITS> + 4 * lane, &scale, 4);
        }
        for (int64_t g = 0; g < groups; g++) {
            float group[GROUP] = {};
            if (here) std::copy_n(from + g * GROUP, std::min(GROUP, here - g * GROUP), group);
            uint8_t* to = panel + g * STEP<BITS>;
            if (BITS == 4) {
                const uint16_t half = narrowed(scale_of(group));
                scale = widened(half);
                std::memcpy(to + NUMBERS<BITS> + 2 * lane, &half, 2);
            }
            store<BITS>(to, lane, group, scale);
        }
    }
}

template <int BITS>
void unpacked(const uint8_t* weights, const int64_t* which, int64_t rows, int64_t inputs, float* out) {
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t* panel = weights + which[row] / LANES * panel_bytes<BITS>(inputs);
        const int64_t lane = which[row] % LANES;
        for (int64_t k = 0; k < inputs; k++) {
            const uint8_t* group = panel + k / GROUP * STEP<BITS>;
            const int64_t four = k % GROUP / 4, place = 4 * lane + k % 4;
            const float scale = BITS == 4 ? widened(load<uint16_t>(group + NUMBERS<BITS> + 2 * lane))
                                          : load<float>(panel + groups_of(inputs) * STEP<BITS> + 4 * lane);
            const int number = BITS == 4 ? group[64 * (four / 2) + place] >> (four % 2 ? 4 : 0) & 15
                                         : group[64 * four + place];
            out[row * inputs + k] = scale * float(number - ZERO<BITS>);
        }
    }
}

}  // namespace
