// Weights of 4, 8 or 16 bits: how they lie in memory, and the way in and out.
//
// They lie in panels of 16 outputs, and in a panel in lines: four inputs of all its outputs side by side, 64 bytes
// where each number has one, or two inputs where it is bfloat16. So a product reads memory in one straight line, and 16
// lines are a tile of AMX. With 4 bits two lines share 64 bytes, and each 32 inputs of an output are multiplied by a
// whole number of their own, so that they are of 8 bits again; these factors lie before the numbers of each 128 inputs.
// A panel ends with a scale for each output, which makes them weights.

#pragma once

#include "vectors.h"

#include <type_traits>
#include <vector>

namespace {

constexpr int64_t GROUP = 32;  // inputs, to a multiple of which they are filled up with zeros; they share a factor
constexpr int64_t CHUNK = 64;  // bytes of a token's inputs that products take at once: 16 lines of weights
constexpr int64_t LINE = 64;   // bytes of all outputs side by side
constexpr int64_t FOUR = LINE / LANES;
constexpr int ZERO = 128;  // what 0 is as a byte
// Factors are up to 15, which times 16 still fits into a byte, and have a sign.
constexpr int LARGEST = 15, NEGATIVE = 128;

inline int64_t groups_of(int64_t inputs) { return (inputs + GROUP - 1) / GROUP; }
inline int64_t panels_of(int64_t outputs) { return (outputs + LANES - 1) / LANES; }

template <int BITS>
constexpr int64_t GROUP_BYTES = GROUP * LANES * BITS / 8;
template <int BITS>
constexpr int64_t GROUPS = BITS == 16 ? 1 : CHUNK / GROUP;  // of a chunk
template <int BITS>
constexpr int NOTHING = BITS == 16 ? 0 : BITS == 8 ? ZERO : 8 + 16 * 8;  // the bytes of weights that are 0

// Calls `use` with the number of bits as a type.
template <typename Use>
inline auto with_bits(int64_t bits, Use use) {
    if (bits == 16) return use(std::integral_constant<int, 16>());
    return bits == 4 ? use(std::integral_constant<int, 4>()) : use(std::integral_constant<int, 8>());
}

constexpr int64_t FACTORS = LINE / LANES;  // groups whose factors fill a line

// Where a panel's groups, their factors and its scales lie.
template <int BITS>
int64_t group_at(int64_t group) {
    return group * GROUP_BYTES<BITS> + (BITS == 4 ? (group / FACTORS + 1) * LINE : 0);
}

inline int64_t factors_at(int64_t group) {
    return group / FACTORS * (LINE + FACTORS * GROUP_BYTES<4>)+group % FACTORS * LANES;
}

template <int BITS>
int64_t scales_at(int64_t groups) { return group_at<BITS>(groups - 1) + GROUP_BYTES<BITS>; }

template <int BITS>
int64_t panel_bytes(int64_t inputs) { return scales_at<BITS>(groups_of(inputs)) + LANES * sizeof(float); }

// What makes numbers of 4 bits into bytes: number * `times`, all bits turned where the factor is negative, plus `plus`.
// So a byte is 128 + factor * (number - 8).
struct Factors {
    Words times, turned, plus;

    explicit Factors(const uint8_t* factors) {
        typedef uint8_t Sixteen __attribute__((vector_size(16)));
        const Words factor = __builtin_convertvector(load<Sixteen>(factors), Words);
        const Words size = factor & LARGEST, eight = size * 0x08080808u;
        times = size * 0x00010001u;
        turned = (Words)(factor >= NEGATIVE);
        plus = 0x80808080u + (turned & (eight + 0x01010101u)) - (~turned & eight);
    }

    // Two bytes are multiplied as one number, for none of them outgrows a byte.
    Bytes operator()(Bytes numbers) const {
        return (Bytes)((Words)((Shorts)numbers * (Shorts)times) ^ turned) + (Bytes)plus;
    }
};

// 32 inputs of a panel, as bytes: eight lines, two at a time.
template <int BITS>
struct Group;

template <>
struct Group<8> {
    const uint8_t* at;

    Group(const uint8_t* panel, int64_t number) : at(panel + group_at<8>(number)) {}

    void read(int pair, Bytes* two) const {
        two[0] = load<Bytes>(at + 2 * LINE * pair);
        two[1] = load<Bytes>(at + 2 * LINE * pair + LINE);
    }
};

template <>
struct Group<4> {
    const uint8_t* at;
    Factors bytes;

    Group(const uint8_t* panel, int64_t number) : at(panel + group_at<4>(number)), bytes(panel + factors_at(number)) {}

    void read(int pair, Bytes* two) const {
        const Bytes both = load<Bytes>(at + LINE * pair);
        two[0] = bytes(both & 15);
        two[1] = bytes(both >> 4);
    }
};

// Sixteen of `count` numbers from place i on, and zeros behind them.
inline Floats some_of(const float* numbers, int64_t i, int64_t count) {
    if (i + LANES <= count) return load<Floats>(numbers + i);
    Floats found = {};
    if (i < count) std::memcpy(&found, numbers + i, (count - i) * sizeof(float));
    return found;
}

// An output's weights as whole numbers: those of 8 bits times a scale, or those of 4 times a factor and a scale.
struct Fitted {
    float scale;
    std::vector<int> numbers, factors;
};

inline int rounded(float x, int low, int high) {
    return int(std::min(float(high), std::max(float(low), std::nearbyint(x))));
}

inline Fitted fitted8(const float* weights, int64_t inputs) {
    float most = 0;
    for (int64_t i = 0; i < inputs; i++) most = std::max(most, std::fabs(weights[i]));
    Fitted found = {most / 127, std::vector<int>(inputs), {}};
    for (int64_t i = 0; i < inputs && most != 0; i++) found.numbers[i] = rounded(weights[i] / found.scale, -127, 127);
    return found;
}

// The scale of up to 32 weights whose numbers of 4 bits, times it, are nearest to them in squares.
inline float scale_of(const float* weights, int64_t count) {
    float most = 0;
    for (int64_t i = 0; i < count; i++)
        if (std::fabs(weights[i]) > std::fabs(most)) most = weights[i];
    float best = 0, found = most / -8;
    for (int step = -8; step <= 8 && most != 0; step++) {  // the largest weight need not be met exactly
        const float by = (0.2f * float(step) - 8) / most;
        float product = 0, square = 0;
        for (int64_t i = 0; i < count; i++) {
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

inline Fitted fitted4(const float* weights, int64_t inputs) {
    const int64_t groups = groups_of(inputs);
    std::vector<float> scales(groups);
    float most = 0;
    for (int64_t g = 0; g < groups; g++) {
        scales[g] = scale_of(weights + g * GROUP, std::min(GROUP, inputs - g * GROUP));
        most = std::max(most, std::fabs(scales[g]));
    }
    Fitted found = {most / LARGEST, std::vector<int>(inputs), std::vector<int>(groups, 1)};
    for (int turn = 0; turn < 2 && most != 0; turn++) {
        float product = 0, square = 0;
        for (int64_t g = 0; g < groups; g++) {
            const int size = rounded(std::fabs(scales[g]) / found.scale, 1, LARGEST);
            found.factors[g] = scales[g] < 0 ? -size : size;
            const float by = 1 / (found.scale * float(found.factors[g]));
            for (int64_t i = g * GROUP; i < std::min(inputs, (g + 1) * GROUP); i++) {
                found.numbers[i] = rounded(weights[i] * by, -8, 7);
                const float whole = float(found.factors[g] * found.numbers[i]);
                product += weights[i] * whole;
                square += whole * whole;
            }
        }
        if (turn == 0 && product > 0) found.scale = product / square;  // nearer, now that all are whole numbers
    }
    return found;
}

// Where two inputs' weights of a lane lie in a panel of bfloat16.
inline int64_t two_at(int64_t input, int64_t lane) {
    return group_at<16>(input / GROUP) + input % GROUP / 2 * LINE + FOUR * lane;
}

// Puts the weights of an output into its lane of a panel; returns their scale.
template <int BITS>
float put(const float* weights, int64_t inputs, int64_t lane, uint8_t* panel) {
    if constexpr (BITS == 16) {
        for (int64_t i = 0; i < inputs; i += LANES) {
            const Halves some = narrowed(some_of(weights, i, inputs));
            for (int64_t j = 0; j < LANES; j += 2)
                std::memcpy(panel + two_at(i + j, lane), (const char*)&some + 2 * j, FOUR);
        }
        return 1;
    } else {
        const Fitted fit = (BITS == 8 ? fitted8 : fitted4)(weights, inputs);
        for (int64_t i = 0; i < inputs; i++) {
            uint8_t* group = panel + group_at<BITS>(i / GROUP);
            const int64_t line = i % GROUP / FOUR, place = FOUR * lane + i % FOUR;
            if (BITS == 8)
                group[LINE * line + place] = uint8_t(fit.numbers[i] + ZERO);
            else {
                uint8_t& both = group[line / 2 * LINE + place];
                const int four = fit.numbers[i] + 8;
                both = uint8_t(line % 2 ? (both & 15) | four << 4 : (both & 240) | four);
            }
        }
        for (int64_t g = 0; g < int64_t(fit.factors.size()); g++) {
            const int factor = fit.factors[g];
            panel[factors_at(g) + lane] = uint8_t(factor < 0 ? NEGATIVE - factor : factor);
        }
        return fit.scale;
    }
}

// Weights [outputs, inputs] to panels.
template <int BITS>
void packed(const float* weights, uint8_t* out, int64_t outputs, int64_t inputs, int threads) {
    const int64_t groups = groups_of(inputs), size = panel_bytes<BITS>(inputs);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t number = 0; number < panels_of(outputs); number++) {
        uint8_t* panel = out + number * size;
        std::memset(panel, 0, size);
        for (int64_t g = 0; g < groups; g++) std::memset(panel + group_at<BITS>(g), NOTHING<BITS>, GROUP_BYTES<BITS>);
        for (int64_t lane = 0; lane < std::min(LANES, outputs - number * LANES); lane++) {
            const float scale = put<BITS>(weights + (number * LANES + lane) * inputs, inputs, lane, panel);
            std::memcpy(panel + scales_at<BITS>(groups) + lane * sizeof(float), &scale, sizeof(float));
        }
    }
}

// The weights of a lane of a panel in fp32, without their scale.
template <int BITS>
void take(const uint8_t* panel, int64_t lane, int64_t inputs, float* out) {
    if constexpr (BITS == 16) {
        for (int64_t i = 0; i < inputs; i++) {
            const uint32_t bits = uint32_t(load<uint16_t>(panel + two_at(i, lane) + i % 2 * 2)) << 16;
            out[i] = load<float>(&bits);
        }
    } else {
        for (int64_t first = 0; first < inputs; first += GROUP) {
            const Group<BITS> group(panel, first / GROUP);
            uint8_t bytes[GROUP];
            for (int pair = 0; pair < GROUP / FOUR / 2; pair++) {
                Bytes two[2];
                group.read(pair, two);
                for (int i = 0; i < 2; i++)
                    std::memcpy(bytes + FOUR * (2 * pair + i), (const char*)&two[i] + FOUR * lane, FOUR);
            }
            for (int64_t i = 0; i < std::min(GROUP, inputs - first); i++) out[first + i] = float(int(bytes[i]) - ZERO);
        }
    }
}

// Some outputs' weights in fp32, [rows, inputs].
template <int BITS>
void unpacked(const uint8_t* weights, const int64_t* which, int64_t rows, int64_t inputs, float* out) {
    const int64_t groups = groups_of(inputs);
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t* panel = weights + which[row] / LANES * panel_bytes<BITS>(inputs);
        const int64_t lane = which[row] % LANES;
        const float scale = load<float>(panel + scales_at<BITS>(groups) + lane * sizeof(float));
        float* to = out + row * inputs;
        take<BITS>(panel, lane, inputs, to);
        for (int64_t i = 0; i < inputs; i++) to[i] *= scale;
    }
}

}  // namespace
