// Tokens as products take them: rounded to int16, each with a scale of its own, or to bfloat16, or as they are.
//
// Inputs of trained models have outliers, a hundred times larger than the rest. Of SmolLM2, int8 with one scale for a
// token costs 0.03 nats a token, with one for 32 inputs 0.003, and int16 with one for a token nothing that four digits
// show. It takes no more instructions than int8 where a CPU multiplies pairs of 16 bits, as AVX2 does.

#pragma once

#include "amx.h"
#include "panels.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

constexpr float SMALL = 1e-33f;  // what is not larger is taken for 0: what it would be multiplied with may be infinite
constexpr int LEVEL_BITS = 15;    // of an input, without its sign
constexpr int64_t FEW = 12;  // up to so many tokens, other threads would take longer to come than small work does

inline int this_thread() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

inline int team() {
#if defined(_OPENMP)
    return omp_get_num_threads();
#else
    return 1;
#endif
}

// Sizes as bits: without signs these are in the same order, infinity and NaN last.
inline Ints sizes(const Floats& some) { return same_bits<Ints>(some) & 0x7fffffff; }
inline Ints larger(const Ints& a, const Ints& b) { return choose(a > b, a, b); }
inline int32_t highest(const Ints& bits) {
    int32_t most = 0;
    for (int64_t i = 0; i < LANES; i++) most = std::max(most, int32_t(bits[i]));
    return most;
}

// What a product gives, on its way to be tokens of the next one: [panels, tokens, 16]. Each thread will round what it
// computed itself: to bring it from another core takes longer than to round it.
class Passed {
  public:
    void begin(int64_t tokens, int64_t outputs, int threads) {
        this->tokens = tokens, this->threads = threads;
        numbers.resize(panels_of(outputs) * tokens * LANES);
        owners.resize(panels_of(outputs));
        most.assign(threads * tokens, Ints{});
    }

    // Takes a panel's outputs from the thread that computed them.
    struct Hand {
        float* numbers;
        Ints* most;

        void put(int64_t token, const Floats& some) const {
            ::put(numbers + token * LANES, some);
            most[token] = larger(sizes(some), most[token]);
        }
    };

    Hand hand(int64_t panel) {
        owners[panel] = this_thread();
        return {&numbers[panel * tokens * LANES], &most[owners[panel] * tokens]};
    }

    int64_t tokens, threads;
    Lines<float> numbers;
    std::vector<int> owners;  // of panels
    std::vector<Ints> most;   // [threads, tokens]: the largest sizes
};

// How the numbers of tokens are kept: as int16, as bfloat16, or in fp32.
enum Kind { WHOLE, HALF, FULL };

// What tokens are multiplied as with weights of this format. Tiles multiply bfloat16, which has room for outliers.
inline Kind kind_for(int64_t format) {
    if (tiles_work()) return HALF;
    if (format != 16) return WHOLE;
#if defined(__AVX512BF16__)
    return HALF;
#else
    return FULL;
#endif
}

// Tokens lie in tiles, as even as can be, and in a tile by groups of inputs. Of a group either all inputs of a token
// stand together, as AMX takes them, or one word of each token after the other: two inputs, or one in fp32.
struct Tokens {
    int64_t count, inputs, groups;
    int64_t tiles, tall;  // and tokens of a tile, at most
    bool together;
    Kind kind;
    Lines<int8_t> values;
    std::vector<float> scales;
    // Of each tile, group and token, the sum of its numbers: times the level of the weight 0, negative, or in fp32, for
    // a format with minima.
    std::vector<int32_t> sums;

    int64_t start(int64_t tile) const { return count * tile / tiles; }
    int64_t tile_of(int64_t token) const { return ((token + 1) * tiles - 1) / count; }
    // Sums of all tokens have a place each, and so has what a tile lacks that is smaller than others.
    int64_t places() const { return tiles * tall; }
    int64_t group_bytes() const { return GROUP * (kind == FULL ? 4 : 2); }  // of a token
    const int8_t* tile(int64_t number) const { return &values[start(number) * groups * group_bytes()]; }
    const int32_t* tile_sums(int64_t number) const { return &sums[start(number) * groups]; }

    // Makes room for so many tokens of so many inputs, for weights of a format.
    void begin(int64_t tokens, int64_t numbers, int64_t tile, bool whole, int64_t format) {
        count = tokens, inputs = numbers, together = whole, kind = kind_for(format);
        tiles = (count + tile - 1) / tile, tall = (count + tiles - 1) / tiles;
        groups = groups_of(inputs);
        values.resize((count + 1) * groups * group_bytes());  // AMX reads one more of a tile that has fewer than others
        scales.resize(count), sums.resize(kind == WHOLE ? count * groups : 0);
        zero = has_minima(int(format)) ? 0 : zero_of(int(format));
    }

    // Rounds what `row` gives of each token, which it is asked for once: where its inputs are.
    template <typename Row>
    void read(Row row, int threads) {
#pragma omp parallel for num_threads(threads) if (count > FEW)
        for (int64_t token = 0; token < count; token++) {
            const float* from = row(token);
            Ints bits = {};
            for (int64_t i = 0; i < inputs && kind == WHOLE; i += LANES)
                bits = larger(sizes(some_of(from, i, inputs)), bits);
            const float by = scaled(token, bits);
            const Place to = {*this, tile_of(token), token - start(tile_of(token))};
            for (int64_t g = 0; g < groups; g++)
                to.put(g, by, [&](int64_t i) { return some_of(from, g * GROUP + i, inputs); });
        }
    }

    // Rounds what a product gave.
    void read(const Passed& from, int threads) {
        std::vector<float> by(count);
#pragma omp parallel num_threads(threads) if (count > FEW)
        {
            const int me = this_thread(), all = team();
            const int64_t count = this->count, panels = panels_of(inputs);
#pragma omp for
            for (int64_t token = 0; token < count; token++) {
                Ints bits = {};
                for (int64_t i = 0; i < from.threads; i++) bits = larger(from.most[i * count + token], bits);
                by[token] = scaled(token, bits);
            }
            for (int64_t g = 0; g < groups; g++) {
                const int64_t first = g * GROUP / LANES;
                if (from.owners[first] % all != me) continue;
                const float* numbers = &from.numbers[first * count * LANES];
                for (int64_t tile = 0, token = 0; tile < tiles; tile++)
                    for (Place to = {*this, tile, 0}; token < start(tile + 1); to.token++, token++)
                        to.put(g, by[token], [&](int64_t i) {
                            if (first + i / LANES >= panels) return Floats{};
                            return load<Floats>(numbers + i * count + token * LANES);
                        });
            }
        }
    }

  private:
    int zero;

    // Where the numbers of a token are put: the one of a tile that has this place.
    struct Place {
        Tokens& of;
        int64_t tile, token;

        // Puts a group, of which `some` gives 16 numbers from one on, times `by`.
        template <typename Some>
        void put(int64_t group, float by, Some some) const {
            const int64_t start = of.start(tile), wide = of.start(tile + 1) - start;
            int8_t* at = &of.values[(start * of.groups + group * wide) * of.group_bytes()];
            if (of.kind == WHOLE) {
                Ints sum = {};
                for (int64_t i = 0; i < GROUP; i += LANES) {
                    const Floats near = some(i) * by + 12582912.0f;  // which leaves no room behind the point
                    const Ints found = same_bits<Ints>(near) - 0x4b400000;
                    store(at, wide, 2 * i, shortened(found));
                    sum += found;
                }
                const int32_t all = total(sum);
                const float plain = float(all);
                of.sums[start * of.groups + group * wide + token] = of.zero ? -of.zero * all : load<int32_t>(&plain);
            } else {
                for (int64_t i = 0; i < GROUP; i += LANES) {
                    if (of.kind == HALF) store(at, wide, 2 * i, narrowed(some(i)));
                    else store(at, wide, 4 * i, some(i));
                }
            }
        }

        // From a byte of the token's group on.
        template <typename Numbers>
        void store(int8_t* group, int64_t wide, int64_t byte, const Numbers& numbers) const {
            if (of.together)
                ::store(group + token * of.group_bytes() + byte, numbers);
            else
                for (int64_t i = 0; i < int64_t(sizeof(numbers)); i += WORD_BYTES)
                    std::memcpy(group + (byte + i) * wide + WORD_BYTES * token, (const char*)&numbers + i, WORD_BYTES);
        }
    };

    // Sets the scale of a token by the bits of its largest sizes; what its numbers are multiplied with. Both are powers
    // of two: so the products are exact, and every CPU rounds them to the same whole numbers.
    float scaled(int64_t token, const Ints& bits) {
        if (kind != WHOLE) return scales[token] = 1;
        const int32_t most = highest(bits);
        const float largest = load<float>(&most);
        // What is not finite shall be seen in what it gives, not rounded to something.
        scales[token] = std::isfinite(largest) ? 1 : std::numeric_limits<float>::quiet_NaN();
        if (!std::isfinite(largest) || largest <= SMALL) return 0;
        int power = LEVEL_BITS - 1 - std::ilogb(largest);
        if (std::nearbyint(std::ldexp(largest, power)) >= float(1 << LEVEL_BITS)) power--;
        scales[token] = std::ldexp(1.0f, -power);
        return std::ldexp(1.0f, power);
    }

    static int32_t total(const Ints& sum) {
        int32_t found = 0;
        for (int64_t i = 0; i < LANES; i++) found += sum[i];
        return found;
    }
};

}  // namespace
