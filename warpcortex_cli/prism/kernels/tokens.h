// Activations as products take them: quantized to int8 or int16, rounded to bfloat16, or in fp32.
//
// Activations of trained models have outliers a hundred times larger than the rest. On SmolLM2, int8 with a scale per
// token costs 0.03 nats a token, with a scale per 32 inputs 0.003, and int16 with a scale per token nothing in four
// digits. 4-bit weights take int8, which needs half the instructions and costs less than their own rounding. 8-bit weights
// times int8 would overflow 16 bits, and avoiding that takes as many instructions as int16.

#pragma once

#include "amx.h"
#include "panels.h"
#include "team.h"

namespace {

constexpr float SMALL = 1e-33f;  // a maximum up to this counts as 0, or its inverse may be infinite
constexpr int LEVEL_BITS = 15;    // of an int16 input, without the sign

// Absolute values as bits, which sort the same way, infinity and NaN last.
inline Ints sizes(const Floats& some) { return same_bits<Ints>(some) & 0x7fffffff; }
inline Ints larger(const Ints& a, const Ints& b) { return choose(a > b, a, b); }
// Rounds to the nearest integer, ties to even; for numbers below 2^22.
inline Ints nearest(const Floats& some) {
    const Floats near = some + 12582912.0f;  // adding 1.5 * 2^23 leaves no fraction bits
    return same_bits<Ints>(near) - 0x4b400000;
}

// Narrows integers to bytes, in the order in which `word_of` puts 4-bit levels into a word: 0, 4, 1, 5, 2, 6, 3, 7 of
// each eight.
inline void bytes_of(const Ints (&found)[2], int8_t* to) {
#if defined(__AVX2__)
    __m256i eights[4];
    std::memcpy(eights, found, sizeof(eights));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(eights[0], eights[1]),
                                             _mm256_packs_epi32(eights[2], eights[3]));
    const __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
    _mm_storeu_si128((__m128i*)to, _mm_unpacklo_epi8(low, high));  // interleaves the first four of each eight with the others
    _mm_storeu_si128((__m128i*)(to + 16), _mm_unpackhi_epi8(low, high));
#else
    int32_t all[GROUP];
    std::memcpy(all, found, sizeof(all));
    for (int64_t i = 0; i < GROUP; i += 8)
        for (int64_t j = 0; j < 4; j++) to[i + 2 * j] = int8_t(all[i + j]), to[i + 2 * j + 1] = int8_t(all[i + 4 + j]);
#endif
}

// Reduces all lanes by `by`.
template <typename By>
inline int32_t reduced(const Ints& x, By by) {
    typedef int32_t Quarter __attribute__((vector_size(16)));
    const char* at = (const char*)&x;
    const auto quarter = [at](int i) { return load<Quarter>(at + i * sizeof(Quarter)); };
    const Quarter all = by(by(quarter(0), quarter(1)), by(quarter(2), quarter(3)));
    return by(by(all[0], all[2]), by(all[1], all[3]));
}
inline int32_t highest(const Ints& bits) { return reduced(bits, Highest()); }

// The outputs of a product that are the inputs of the next one: [panels, tokens, 16]. With many tokens each thread rounds
// what it computed itself, since fetching it from another core takes longer.
class Intermediate {
  public:
    // Allocates, before threads start, for the largest size.
    void reserve(int64_t tokens, int64_t outputs, int threads) {
        const int64_t panels = panels_of(outputs);
        if (int64_t(numbers.size()) < panels * tokens * LANES) numbers.resize(panels * tokens * LANES);
        if (int64_t(owners.size()) < panels) owners.resize(panels);
        if (int64_t(most.size()) < threads * tokens) most.resize(threads * tokens);
    }

    // Called by each thread before its first `writer`.
    void begin(const Team& team, int64_t tokens) { std::fill_n(sizes_of(team.me, tokens), tokens, Ints{}); }

    // Writes a panel's outputs, in the thread that computed them.
    struct Writer {
        float* numbers;
        Ints* most;

        void put(int64_t token, const Floats& some) const {
            ::put(numbers + token * LANES, some);
            most[token] = larger(sizes(some), most[token]);
        }
    };

    Writer writer(const Team& team, int64_t panel, int64_t tokens) {
        owners[panel] = team.me;
        return {&numbers[panel * tokens * LANES], sizes_of(team.me, tokens)};
    }

    // Per token the maximum absolute values that a thread has written.
    Ints* sizes_of(int thread, int64_t tokens) { return &most[thread * tokens]; }

    AlignedVector<float> numbers;
    std::vector<int> owners;  // of panels

  private:
    AlignedVector<Ints> most;
};

// How activations are stored: int8 with a scale per group, int16 with a scale per token, bfloat16, or fp32.
enum Kind { BYTES, WHOLE, HALF, FULL };

// 4-byte words of a group.
constexpr int words_of(Kind kind) { return int(GROUP) / (kind == BYTES ? 4 : kind == FULL ? 1 : 2); }

// TILE tokens and PAIR panels whose sums fit into registers.
#if defined(__AVX512F__)
constexpr int TILE = 12, PAIR = 2;
#elif defined(__AVX2__)
constexpr int TILE = 6, PAIR = 1;
#elif defined(__x86_64__)
constexpr int TILE = 2, PAIR = 1;
#else
constexpr int TILE = 4, PAIR = 1;
#endif

// Tokens from which on AMX tiles multiply integers faster than vectors do. Both give the same bits.
constexpr int64_t TILED = 64;

// How activations are stored for weights of this format, on this CPU whatever the number of tokens.
constexpr Kind kind_for(int format) {
    if (bits_of(format) == 4) return BYTES;
    if (!unquantized(format)) return WHOLE;
#if defined(__AVX512BF16__)
    if (format == BF16) return HALF;
#endif
    return FULL;
}

// The high bytes of int16 integers, and behind them the low ones, each in the order in which `word_of` puts 8-bit levels
// into a word: 0, 2, 1, 3 of each four.
inline void bytes_of_whole(const Ints (&found)[2], int8_t* to) {
#if defined(__AVX512F__)
    const __m128i swapped = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (int64_t i = 0; i < 2; i++) {
        const __m512i all = (__m512i)found[i];
        const __m128i high = _mm512_cvtepi32_epi8(_mm512_srai_epi32(all, 8)), low = _mm512_cvtepi32_epi8(all);
        _mm_storeu_si128((__m128i*)(to + i * LANES), _mm_shuffle_epi8(high, swapped));
        _mm_storeu_si128((__m128i*)(to + GROUP + i * LANES), _mm_shuffle_epi8(low, swapped));
    }
#else
    int32_t all[GROUP];
    std::memcpy(all, found, sizeof(all));
    for (int64_t i = 0; i < GROUP; i++) {
        const int64_t at = (i & ~3) | (i & 1) << 1 | (i & 2) >> 1;
        to[i] = int8_t(all[at] >> 8), to[GROUP + i] = int8_t(all[at]);
    }
#endif
}

// Activations in tiles, and within a tile by groups of inputs. Within a group either all inputs of a token are contiguous,
// as AMX takes them, or the tokens' words are interleaved: a word is two inputs, four of int8, or one in fp32. Tiles have
// nearly equal sizes; of integers for AMX, all but the last one have 16 tokens.
struct Tokens {
    int64_t count, inputs, groups;
    int64_t tiles, tall;  // number of tiles; maximum tokens of a tile
    bool together;
    Kind kind;
    AlignedVector<int8_t> values;
    std::vector<float> scales;        // [tokens]
    std::vector<float> group_scales;  // by tile, group and token
    // By tile, group and token, the sum of a group's inputs: times minus the level of the weight 0; for formats with minima
    // and for int8 as the bits of an fp32 number, for int8 times its scale.
    std::vector<int32_t> sums;

    int64_t start(int64_t tile) const { return std::min(count, spread * tile / tiles); }
    int64_t tile_of(int64_t token) const { return ((token + 1) * tiles - 1) / spread; }
    // Places for sums: every tile has `tall`, used or not.
    int64_t places() const { return tiles * tall; }
    int64_t group_bytes() const { return words_of(kind) * WORD_BYTES; }  // per token
    const int8_t* tile(int64_t number) const { return &values[start(number) * groups * group_bytes()]; }
    const int32_t* tile_sums(int64_t number) const { return &sums[start(number) * groups]; }
    const float* tile_scales(int64_t number) const { return &group_scales[start(number) * groups]; }

    // Allocates for `tokens` of `numbers` inputs, to be multiplied with weights of a format.
    void begin(int64_t tokens, int64_t numbers, int64_t format) {
        count = tokens, inputs = numbers, kind = kind_for(int(format));
        const bool integers = kind == WHOLE || kind == BYTES;
        const bool bytes = bits_of(int(format)) == 4 || bits_of(int(format)) == 8;  // what tiles take as it is
        together = tiles_work() && (kind == HALF || (integers && bytes && count >= TILED));
        const int64_t tile = together ? TALL : TILE;
        tiles = (count + tile - 1) / tile;
        spread = together && integers ? tiles * TALL : count, tall = (spread + tiles - 1) / tiles;
        groups = groups_of(inputs);
        const int64_t more = together ? TALL : 0;  // AMX reads `tall` rows of every tile, used or not
        values.resize((count * groups + more) * group_bytes());
        scales.resize(count), group_scales.resize(kind == BYTES ? count * groups + more : 0);
        sums.resize(integers ? count * groups + more : 0);
        zero = has_minima(int(format)) || format == SIX ? 0 : zero_of(int(format));
    }

    // Quantizes the inputs that `row` returns for each token; it is called once per token.
    template <typename Row>
    void read(Team& team, Row row) {
        team.each(count, [&](int64_t token) {
            const float* from = row(token);
            Ints bits = {};
            for (int64_t i = 0; i < inputs && kind == WHOLE; i += LANES)
                bits = larger(sizes(some_of(from, i, inputs)), bits);
            const float by = scaled(token, bits);
            const Place to = {*this, tile_of(token), token - start(tile_of(token))};
            for (int64_t g = 0; g < groups; g++)
                to.put(g, by, [&](int64_t i) { return some_of(from, g * GROUP + i, inputs); });
        });
        if (count > FEW) team.wait();
    }

    // Quantizes the outputs of a product.
    void read(Team& team, Intermediate& from) {
        static thread_local std::vector<float> held;
        held.resize(count);
        float* by = held.data();
        for (int64_t token = 0; token < count; token++) {
            Ints bits = {};
            for (int i = 0; i < team.threads; i++) bits = larger(from.sizes_of(i, count)[token], bits);
            const bool mine = count <= FEW || (token >= team.first(count) && token < team.last(count));
            float elsewhere;
            by[token] = scaled(bits, mine ? scales[token] : elsewhere);
        }
        const int64_t panels = panels_of(inputs);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t first = g * GROUP / LANES;
            if (count > FEW && from.owners[first] != team.me) continue;
            const float* numbers = &from.numbers[first * count * LANES];
            for (int64_t tile = 0, token = 0; tile < tiles; tile++)
                for (Place to = {*this, tile, 0}; token < start(tile + 1); to.token++, token++)
                    to.put(g, by[token], [&](int64_t i) {
                        if (first + i / LANES >= panels) return Floats{};
                        return load<Floats>(numbers + i * count + token * LANES);
                    });
        }
        if (count > FEW) team.wait();
    }

  private:
    int zero;
    int64_t spread;  // places of tokens, over which tiles are spread

    // The place of token `token` in a tile.
    struct Place {
        Tokens& of;
        int64_t tile, token;

        // Writes a group times `by`; `some(i)` returns its numbers [i, i + 16).
        template <typename Some>
        void put(int64_t group, float by, Some some) const {
            const int64_t start = of.start(tile), wide = of.start(tile + 1) - start;
            int8_t* at = &of.values[(start * of.groups + group * wide) * of.group_bytes()];
            if (of.kind == BYTES) {
                put_bytes(at, wide, (start * of.groups + group * wide) + token, some);
            } else if (of.kind == WHOLE) {
                const Ints found[2] = {nearest(some(0) * by), nearest(some(LANES) * by)};
                if (of.together)
                    bytes_of_whole(found, at + token * of.group_bytes());
                else
                    for (int64_t i = 0; i < 2; i++) store(at, wide, 2 * i * LANES, shortened(found[i]));
                const int32_t all = reduced(found[0] + found[1], Sum());
                const float plain = float(all);
                of.sums[start * of.groups + group * wide + token] = of.zero ? -of.zero * all : load<int32_t>(&plain);
            } else {
                for (int64_t i = 0; i < GROUP; i += LANES) {
                    if (of.kind == HALF) store(at, wide, 2 * i, narrowed(some(i)));
                    else store(at, wide, 4 * i, some(i));
                }
            }
        }

        // Quantizes to int8; the largest absolute value becomes 127.
        template <typename Some>
        void put_bytes(int8_t* at, int64_t wide, int64_t number, Some some) const {
            const Floats first = some(0), second = some(LANES);
            const int32_t most = highest(larger(sizes(first), sizes(second)));
            const float largest = load<float>(&most);
            // Not finite: NaN, so that the outputs show it.
            const bool finite = std::isfinite(largest);
            const float scale = !finite ? std::numeric_limits<float>::quiet_NaN() : largest <= SMALL ? 0 : largest / 127;
            const float by = finite && largest > SMALL ? 127 / largest : 0;
            Ints found[2] = {nearest(first * by), nearest(second * by)};
            int8_t bytes[GROUP];
            bytes_of(found, bytes);
            if (of.together)
                std::memcpy(at + token * GROUP, bytes, GROUP);
            else
                for (int64_t i = 0; i < GROUP; i += WORD_BYTES)
                    std::memcpy(at + i * wide + WORD_BYTES * token, bytes + i, WORD_BYTES);
            const float sum = float(reduced(found[0] + found[1], Sum())) * scale;
            of.group_scales[number] = scale, of.sums[number] = load<int32_t>(&sum);
        }

        // Writes numbers from byte `byte` of the token's group on.
        template <typename Numbers>
        void store(int8_t* group, int64_t wide, int64_t byte, const Numbers& numbers) const {
            if (of.together)
                ::store(group + token * of.group_bytes() + byte, numbers);
            else
                for (int64_t i = 0; i < int64_t(sizeof(numbers)); i += WORD_BYTES)
                    std::memcpy(group + (byte + i) * wide + WORD_BYTES * token, (const char*)&numbers + i, WORD_BYTES);
        }
    };

    float scaled(int64_t token, const Ints& bits) { return scaled(bits, scales[token]); }

    // Sets a token's scale from its maximum absolute values and returns the inverse. Both are powers of two, so that the
    // products are exact and every CPU rounds to the same integers.
    float scaled(const Ints& bits, float& scale) const {
        if (kind != WHOLE) return scale = 1;
        const int32_t most = highest(bits);
        const float largest = load<float>(&most);
        // Not finite: NaN, so that the outputs show it.
        scale = std::isfinite(largest) ? 1 : std::numeric_limits<float>::quiet_NaN();
        if (!std::isfinite(largest) || largest <= SMALL) return 0;
        int power = LEVEL_BITS - 1 - std::ilogb(largest);
        if (std::nearbyint(std::ldexp(largest, power)) >= float(1 << LEVEL_BITS)) power--;
        scale = std::ldexp(1.0f, -power);
        return std::ldexp(1.0f, power);
    }
};

}  // namespace
