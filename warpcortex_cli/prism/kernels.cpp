// What a CPU computes in a step: products with packed weights of 4 or 8 bits, what a layer does between them, and attention of
// tokens that are decoded or few.
//
// Vectors are the compiler's own, of 16 lanes, so that one text serves every CPU; only `dot` is written for each.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t LANES = 16, GROUP = 32;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

template <typename T>
inline T load(const void* from) {
    T found;
    std::memcpy(&found, from, sizeof(T));
    return found;
}

inline Floats splat(float x) { return Floats{} + x; }
inline Ints splat(int32_t x) { return Ints{} + x; }
inline float widened(uint16_t x) { return load<float>(&static_cast<const uint32_t&>(uint32_t(x) << 16)); }

inline Floats widened(Halves x) {
    const Words wide = __builtin_convertvector(x, Words) << 16;
    return load<Floats>(&wide);
}

inline uint16_t narrowed(float x) {
    const uint32_t bits = load<uint32_t>(&x);
    return std::isnan(x) ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

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

// -- packed weights ---------------------------------------------------------------------------------------------------

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
constexpr int64_t FEW = 12;   // up to so many tokens, other threads would take longer to come than small work does
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
                // The largest, as bits: of numbers without their sign these are in the same order, infinity and NaN last.
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

// Adds what groups [first, last) of P panels give to the sums [P, rows] of the M tokens of a tile that begins with `row`.
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
inline void gather_some(int64_t count, const uint8_t* panels, int64_t panel, const Tokens& x, int64_t row, int64_t first,
                        int64_t last, Floats* sums) {
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
            const int64_t row = x.start(tile), last = std::min(first + NEAR, x.groups);
            gather_some<BITS, P>(x.start(tile + 1) - row, weights + number * size, size, x, row, first, last, sums + row);
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

// -- attention --------------------------------------------------------------------------------------------------------

inline Floats exponential(Floats x) {  // of numbers up to 0, within 2 units of the last place of 1
    const Floats bounded = x < -87.0f ? splat(-87.0f) : x;
    const Floats z = bounded * 1.44269504f;
    const Ints whole = __builtin_convertvector(z - 0.5f, Ints);
    const Floats f = (z - __builtin_convertvector(whole, Floats)) * 0.693147181f;
    const Floats sum =
        1 + f * (1 + f * (0.5f + f * (1 / 6.0f + f * (1 / 24.0f + f * (1 / 120.0f + f * (1 / 720.0f))))));
    const Ints power = (whole + 127) << 23;
    const Floats found = sum * load<Floats>(&power);
    return x < -87.0f ? Floats{} : (x != x ? x : found);
}

template <typename T>
inline Floats lanes(const T* from);
template <>
inline Floats lanes(const float* from) { return load<Floats>(from); }
template <>
inline Floats lanes(const uint16_t* from) { return widened(load<Halves>(from)); }

inline void put(float* to, float x) { *to = x; }
inline void put(uint16_t* to, float x) { *to = narrowed(x); }

typedef float Eight __attribute__((vector_size(32)));
typedef float Four __attribute__((vector_size(16)));

inline float total(Floats x) {
    const char* at = (const char*)&x;
    const Eight eight = load<Eight>(at) + load<Eight>(at + 32);
    const Four four = load<Four>(&eight) + load<Four>((const char*)&eight + 16);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

inline float highest_of(Floats x) {
    const char* at = (const char*)&x;
    const Eight a = load<Eight>(at), b = load<Eight>(at + 32), eight = a > b ? a : b;
    const Four c = load<Four>(&eight), d = load<Four>((const char*)&eight + 16), four = c > d ? c : d;
    return std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
}

// The totals of 16 vectors, in their order.
inline Floats totals(const Floats* x) {
#if defined(__AVX512F__)
    // Two become one whose lanes hold sums of either: first of 8 lanes each, at last of one.
    const auto folded = [](const Floats& a, const Floats& b, Ints low, int step) {
        return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, low + step);
    };
    const Ints eight = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
    const Ints four = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    const Ints two = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29};
    const Ints one = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    Floats part[8];
    for (int i = 0; i < 8; i++) part[i] = folded(x[2 * i], x[2 * i + 1], eight, 8);
    for (int i = 0; i < 4; i++) part[i] = folded(part[2 * i], part[2 * i + 1], four, 4);
    for (int i = 0; i < 2; i++) part[i] = folded(part[2 * i], part[2 * i + 1], two, 2);
    return folded(part[0], part[1], one, 1);
#else
    Floats found;
    for (int i = 0; i < LANES; i++) found[i] = total(x[i]);
    return found;
#endif
}

// Keys and values that lie together: of one KV head, one token behind the other.
template <typename T>
struct Span {
    const T *keys, *values;
    int64_t tokens;
};

constexpr int64_t PIECE = 64;  // keys whose scores are held at once
constexpr int TOGETHER = 8;    // query heads that read a key at once

// What HEADS queries have gathered so far of one softmax: each its highest score, sum of weights, and weighted values.
template <typename T, int HEADS>
inline void read(const Floats* query, int64_t width, float scaling, Span<T> span, float* state) {
    const int64_t d = width * LANES;
    Floats scores[HEADS][PIECE / LANES];
    const Ints order = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t start = 0; start < span.tokens; start += PIECE) {
        const int64_t here = std::min(PIECE, span.tokens - start), blocks = (here + LANES - 1) / LANES;
        const T *keys = span.keys + start * d, *values = span.values + start * d;
        for (int64_t b = 0; b < blocks; b++) {
            const T* at[LANES];  // behind the last token it is read again, and forgotten
            for (int64_t i = 0; i < LANES; i++) at[i] = keys + std::min(b * LANES + i, here - 1) * d;
            for (int h = 0; h < HEADS; h++) {
                Floats sums[LANES] = {};
                for (int64_t w = 0; w < width; w++)
                    for (int64_t i = 0; i < LANES; i++) sums[i] += query[h * width + w] * lanes(at[i] + w * LANES);
                const Floats found = totals(sums) * scaling;
                scores[h][b] = order < int32_t(here - b * LANES) ? found : -std::numeric_limits<float>::infinity();
            }
        }
        for (int h = 0; h < HEADS; h++) {
            float *own = state + h * (d + 2), most = own[0];
            Floats highest = splat(most), sum = {};
            for (int64_t b = 0; b < blocks; b++) highest = scores[h][b] > highest ? scores[h][b] : highest;
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
            for (int h = 0; h < HEADS; h++) std::memcpy(state + h * (d + 2) + 2 + w * LANES, &sums[h], sizeof(Floats));
        }
    }
}

template <typename T, int HEADS = TOGETHER>
inline void read_some(int64_t heads, const Floats* query, int64_t width, float scaling, Span<T> span, float* state) {
    if constexpr (HEADS > 1)
        if (heads < HEADS) return read_some<T, HEADS - 1>(heads, query, width, scaling, span, state);
    read<T, HEADS>(query, width, scaling, span, state);
}

// Tokens of a step whose tails are in one slab and which read the same parts. Strides are in numbers, not bytes.
struct Group {
    int64_t start, tokens, each;     // its first packed token; all of them; those of a row, which stand together
    const int64_t *slots, *lengths;  // of each token: where its tail is, and how much of it the token sees, itself included
    const int64_t* tails;            // [layers, 2]: addresses of keys and values, [slots, kv_heads, capacity, d]
    int64_t tail_slot, tail_head, parts;
    const int64_t* reads;            // [layers, parts, 5]: addresses of keys and values, tokens, strides of a head in both
};

// What `attend` is given.
struct Attention {
    const void *query, *key, *value;  // of all packed tokens: [heads or kv_heads, tokens, d]
    int64_t query_head, query_row, key_head, key_row, value_head, value_row;
    void* out;  // [tokens, heads, d]
    int64_t kv_heads, shared, d, layer;  // `shared`: query heads for one of keys
    float scaling;
    const Group* const* groups;
    int64_t count;
};

constexpr int64_t BLOCK = 8;                // tokens that take turns with the same few keys, which stay near meanwhile
constexpr int64_t LEAST = 128, MOST = 512;  // keys of one task

// Tokens [first, last) of a group and keys [from, upto) that they read with one head of keys.
template <typename T>
struct Task {
    const Group* group;
    const T *keys, *values;
    int64_t kv, first, last, from, upto;
    bool tail;             // its keys are a tail's, of which each token sees only the beginning
    int64_t place;         // among the parts that a token's keys are cut into
    int64_t state, apart;  // where the state of token 0 is, and how far those of two tokens are apart
};

// All of a layer's attention, cut into tasks that threads share. A task leaves a state for each of its tokens and heads:
// the highest score, the sum of weights, and the weighted values.
template <typename T>
struct Plan {
    std::vector<Task<T>> tasks;
    std::vector<int64_t> first, places;  // of each group: its first state, and parts that a token's keys are cut into
    int64_t states;

    void make(const Attention& a, int threads) {
        tasks.clear(), first.clear(), places.clear(), states = 0;
        int64_t keys = 0;
        for (int64_t g = 0; g < a.count; g++) {
            const Group& group = *a.groups[g];
            keys += longest(group);
            for (int64_t p = 0; p < group.parts; p++) keys += read_of(a, group, p)[2];
        }
        const int64_t most = std::min(MOST, std::max(LEAST, a.kv_heads * keys / (4 * threads)));
        for (int64_t g = 0; g < a.count; g++) cut(a, *a.groups[g], most);
    }

  private:
    static int64_t longest(const Group& group) { return *std::max_element(group.lengths, group.lengths + group.tokens); }
    static const int64_t* read_of(const Attention& a, const Group& group, int64_t part) {
        return group.reads + 5 * (a.layer * group.parts + part);
    }

    void cut(const Attention& a, const Group& group, int64_t most) {
        const size_t before = tasks.size();
        const int64_t* tails = group.tails + 2 * a.layer;
        int64_t place = 0;
        for (int64_t p = 0; p < group.parts; p++) {
            const int64_t* read = read_of(a, group, p);
            for (int64_t from = 0; from < read[2]; from += most, place++)
                for (int64_t kv = 0; kv < a.kv_heads; kv++)
                    for (int64_t token = 0; token < group.tokens; token += BLOCK)
                        tasks.push_back({&group, (const T*)read[0] + kv * read[3], (const T*)read[1] + kv * read[4], kv, token,
                                         std::min(token + BLOCK, group.tokens), from, std::min(from + most, read[2]), false,
                                         place, 0, 0});
        }
        for (int64_t from = 0, end = longest(group); from < end; from += most, place++)
            for (int64_t row = 0; row < group.tokens; row += group.each)
                for (int64_t kv = 0; kv < a.kv_heads; kv++) {
                    const int64_t at = group.slots[row] * group.tail_slot + kv * group.tail_head;
                    for (int64_t token = row; token < row + group.each; token += BLOCK)
                        tasks.push_back({&group, (const T*)tails[0] + at, (const T*)tails[1] + at, kv, token,
                                         std::min(token + BLOCK, row + group.each), from, std::min(from + most, end), true,
                                         place, 0, 0});
                }
        for (size_t i = before; i < tasks.size(); i++) {
            tasks[i].state = states + tasks[i].kv * place + tasks[i].place;
            tasks[i].apart = a.kv_heads * place;
        }
        first.push_back(states), places.push_back(place);
        states += group.tokens * a.kv_heads * place;
    }
};

template <typename T>
void work(const Attention& a, const Task<T>& task, float* states) {
    const int64_t width = a.d / LANES, size = a.shared * (a.d + 2), count = task.last - task.first;
    std::vector<Floats> query(count * a.shared * width);
    for (int64_t t = 0; t < count; t++) {
        const int64_t row = task.group->start + task.first + t;
        float* state = states + (task.state + (task.first + t) * task.apart) * size;
        std::fill_n(state, size, 0.0f);
        for (int64_t h = 0; h < a.shared; h++) {
            const T* from = (const T*)a.query + (task.kv * a.shared + h) * a.query_head + row * a.query_row;
            for (int64_t w = 0; w < width; w++) query[(t * a.shared + h) * width + w] = lanes(from + w * LANES);
            state[h * (a.d + 2)] = std::numeric_limits<float>::lowest();
        }
    }
    for (int64_t from = task.from; from < task.upto; from += PIECE)
        for (int64_t t = 0; t < count; t++) {
            const int64_t token = task.first + t;
            int64_t here = std::min(PIECE, task.upto - from);
            if (task.tail) here = std::min(here, task.group->lengths[token] - from);
            if (here <= 0) continue;
            const Span<T> span = {task.keys + from * a.d, task.values + from * a.d, here};
            float* state = states + (task.state + token * task.apart) * size;
            for (int64_t h = 0; h < a.shared; h += TOGETHER)
                read_some(a.shared - h, &query[(t * a.shared + h) * width], width, a.scaling, span, state + h * (a.d + 2));
        }
}

// One softmax over all that a token read with one head of keys: `count` states, one behind the other, to [shared, d].
template <typename T>
void join(const Attention& a, const float* states, int64_t count, T* out) {
    const int64_t size = a.shared * (a.d + 2);
    for (int64_t h = 0; h < a.shared; h++) {
        const float* first = states + h * (a.d + 2);
        float most = first[0], sum = 0;
        float found[LANES];
        for (int64_t s = 1; s < count; s++) most = std::max(most, first[s * size]);
        for (int64_t s = 0; s < count; s++) sum += std::exp(first[s * size] - most) * first[s * size + 1];
        for (int64_t i = 0; i < a.d; i += LANES) {
            Floats value = {};
            for (int64_t s = 0; s < count; s++)
                value += std::exp(first[s * size] - most) * load<Floats>(first + s * size + 2 + i);
            std::memcpy(found, &value, sizeof(value));
            for (int64_t j = 0; j < LANES; j++) put(out + h * a.d + i + j, found[j] / sum);
        }
    }
}

template <typename T>
void attended(const Attention& a, int threads) {
    const int64_t size = a.shared * (a.d + 2);
    static thread_local Plan<T> held;
    static thread_local std::vector<float> room;
    Plan<T>& plan = held;
    plan.make(a, threads);
    room.resize(plan.states * size);
    float* states = room.data();
    for (int64_t g = 0; g < a.count; g++) {
        const Group& group = *a.groups[g];
        const int64_t* tails = group.tails + 2 * a.layer;
        for (int64_t token = 0; token < group.tokens; token++)
            for (int64_t kv = 0; kv < a.kv_heads; kv++) {
                const int64_t row = group.start + token;
                const int64_t place =
                    group.slots[token] * group.tail_slot + kv * group.tail_head + (group.lengths[token] - 1) * a.d;
                std::copy_n((const T*)a.key + kv * a.key_head + row * a.key_row, a.d, (T*)tails[0] + place);
                std::copy_n((const T*)a.value + kv * a.value_head + row * a.value_row, a.d, (T*)tails[1] + place);
            }
    }
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < plan.tasks.size(); i++) work(a, plan.tasks[i], states);
        for (int64_t g = 0; g < a.count; g++) {
            const Group& group = *a.groups[g];
#pragma omp for schedule(static) nowait
            for (int64_t token = 0; token < group.tokens; token++)
                for (int64_t kv = 0; kv < a.kv_heads; kv++) {
                    const int64_t place = plan.places[g], state = plan.first[g] + (token * a.kv_heads + kv) * place;
                    T* out = (T*)a.out + ((group.start + token) * a.kv_heads + kv) * a.shared * a.d;
                    join(a, states + state * size, place, out);
                }
        }
    }
}

// -- the rest of a layer ----------------------------------------------------------------------------------------------

struct Norm {
    const float* weight;  // or null, where the layer has no such norm
    float epsilon;
};

struct Linear {
    const uint8_t* weights;
    const float* bias;  // or null
    int64_t bits, outputs;
};

// What all tokens of a step go through, in each layer, before and after they attend.
struct Layer {
    int64_t width, heads, kv_heads, d, inner, gelu;
    Norm first, query, key, attended, second, fed;
    Linear qkv, output, gate_up, down;
};

constexpr int64_t SOME = 128;  // tokens taken at once: what they need besides stays small, however long a prefill is

void multiplied(const Linear& by, const float* x, float* out, int64_t rows, int64_t inputs, int threads) {
    (by.bits == 4 ? multiplied<4> : multiplied<8>)(x, by.weights, by.bias, out, rows, inputs, by.outputs, threads);
}

inline void normalized(const Norm& norm, const float* x, float* out, int64_t width) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
    const float by = 1 / std::sqrt(sum / float(width) + norm.epsilon);
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * by * norm.weight[i];
}

// The first `turned` numbers of a head, turned as transformers' rotate_half does: number i together with i + turned / 2.
inline void turn(float* x, const float* cosine, const float* sine, int64_t turned) {
    const int64_t half = turned / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i + half] + a * sine[i + half];
    }
}

// out = act(gate) * up, where act(x) is x times the logistic function of x, or of what makes it GELU's approximation by tanh.
inline void activated(const float* gate, const float* up, float* out, int64_t count, bool gelu) {
    for (int64_t i = 0; i < count; i += LANES) {
        const int64_t here = std::min(LANES, count - i);
        Floats g = {}, u = {};
        std::memcpy(&g, gate + i, here * sizeof(float));
        std::memcpy(&u, up + i, here * sizeof(float));
        const Floats z = gelu ? 1.595769122f * (g + 0.044715f * g * g * g) : g;
        const Floats small = exponential(z < 0 ? z : -z);  // never of a number above 0
        const Floats found = g * u * (z < 0 ? small : splat(1.0f)) / (1 + small);
        std::memcpy(out + i, &found, here * sizeof(float));
    }
}

// From hidden states [rows, width] to queries, keys and values [rows, heads + 2 * kv_heads, d], queries and keys turned
// by cosine and sine [rows, turned].
void before(const Layer& layer, const float* hidden, const float* cosine, const float* sine, int64_t turned, float* out,
            int64_t rows, int threads) {
    const int64_t wide = layer.qkv.outputs;
    static thread_local std::vector<float> room;
    room.resize(std::min(rows, SOME) * layer.width);
    float* normed = room.data();
    for (int64_t start = 0; start < rows; start += SOME) {
        const int64_t here = std::min(SOME, rows - start);
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = 0; row < here; row++)
            normalized(layer.first, hidden + (start + row) * layer.width, normed + row * layer.width, layer.width);
        multiplied(layer.qkv, normed, out + start * wide, here, layer.width, threads);
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = start; row < start + here; row++)
            for (int64_t head = 0; head < layer.heads + layer.kv_heads; head++) {
                float* x = out + row * wide + head * layer.d;
                const Norm& norm = head < layer.heads ? layer.query : layer.key;
                if (norm.weight) normalized(norm, x, x, layer.d);
                turn(x, cosine + row * turned, sine + row * turned, turned);
            }
    }
}

// out [rows, width]: hidden states plus what the heads read [rows, heads * d], and plus what the feed-forward part makes of it.
void after(const Layer& layer, const float* hidden, const float* read, float* out, int64_t rows, int threads) {
    const int64_t width = layer.width, most = std::min(rows, SOME);
    static thread_local std::vector<float> room;
    room.resize(most * (2 * width + 3 * layer.inner));
    float *part = room.data(), *normed = part + most * width, *wide = normed + most * width;
    float* inner = wide + most * 2 * layer.inner;
    const auto add = [&](const Norm& norm, const float* x, float* to, int64_t row) {
        float* found = part + row * width;
        if (norm.weight) normalized(norm, found, found, width);
        for (int64_t i = 0; i < width; i++) to[row * width + i] = x[row * width + i] + found[i];
    };
    for (int64_t start = 0; start < rows; start += SOME) {
        const int64_t here = std::min(SOME, rows - start);
        const float* x = hidden + start * width;
        float* to = out + start * width;
        multiplied(layer.output, read + start * layer.heads * layer.d, part, here, layer.heads * layer.d, threads);
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = 0; row < here; row++) {
            add(layer.attended, x, to, row);
            normalized(layer.second, to + row * width, normed + row * width, width);
        }
        multiplied(layer.gate_up, normed, wide, here, width, threads);
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = 0; row < here; row++) {
            const float* gate = wide + row * 2 * layer.inner;
            activated(gate, gate + layer.inner, inner + row * layer.inner, layer.inner, layer.gelu);
        }
        multiplied(layer.down, inner, part, here, layer.inner, threads);
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = 0; row < here; row++) add(layer.fed, to, to, row);
    }
}

}  // namespace

extern "C" {

int64_t packed_bytes(int bits, int64_t outputs, int64_t inputs) {
    return panels_of(outputs) * (bits == 4 ? panel_bytes<4> : panel_bytes<8>)(inputs);
}

void pack(int bits, const float* weights, uint8_t* out, int64_t outputs, int64_t inputs, int threads) {
    (bits == 4 ? packed<4> : packed<8>)(weights, out, outputs, inputs, threads);
}

void unpack(int bits, const uint8_t* weights, const int64_t* which, int64_t rows, int64_t inputs, float* out) {
    (bits == 4 ? unpacked<4> : unpacked<8>)(weights, which, rows, inputs, out);
}

void multiply(int bits, const float* x, const uint8_t* weights, const float* bias, float* out, int64_t rows,
              int64_t inputs, int64_t outputs, int threads) {
    (bits == 4 ? multiplied<4> : multiplied<8>)(x, weights, bias, out, rows, inputs, outputs, threads);
}

void attend(int half, const Attention* given, int threads) {
    (half ? attended<uint16_t> : attended<float>)(*given, threads);
}

void before_attention(const Layer* layer, const float* hidden, const float* cosine, const float* sine, int64_t turned,
                      float* out, int64_t rows, int threads) {
    before(*layer, hidden, cosine, sine, turned, out, rows, threads);
}

void after_attention(const Layer* layer, const float* hidden, const float* read, float* out, int64_t rows, int threads) {
    after(*layer, hidden, read, out, rows, threads);
}

}
