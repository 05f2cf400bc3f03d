// Tokens as products take them: rounded to int8, each with a scale of its own, or to bfloat16.

#pragma once

#include "panels.h"

#include <limits>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

constexpr float SMALL = 1e-36f;  // what is not larger is taken for 0: 127 divided by it may be infinite
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
inline Ints sizes(Floats some) { return load<Ints>(&some) & 0x7fffffff; }
inline Ints larger(Ints a, Ints b) { return a > b ? a : b; }
inline int32_t highest(Ints bits) {
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

        void put(int64_t token, Floats some) const {
            std::memcpy(numbers + token * LANES, &some, sizeof(some));
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

// Tokens lie in tiles, as even as can be, and in a tile by chunks of inputs. Of a chunk either all inputs of a token
// stand together, as AMX takes them, or four of all tokens.
struct Tokens {
    int64_t count, inputs, groups, chunks;
    int64_t tiles, tall;  // and tokens of a tile, at most
    bool together, half;  // `half`: they are of bfloat16, and scales are 1
    Lines<int8_t> values;
    std::vector<float> scales;
    std::vector<int32_t> sums;  // of a token's values

    int64_t start(int64_t tile) const { return count * tile / tiles; }
    int64_t tile_of(int64_t token) const { return ((token + 1) * tiles - 1) / count; }
    // Sums of all tokens have a place each, and so has what a tile lacks that is smaller than others.
    int64_t places() const { return tiles * tall; }
    const int8_t* tile(int64_t number) const { return &values[start(number) * chunks * CHUNK]; }
    int64_t bytes() const { return half ? 2 : 1; }    // of a number
    int64_t wide() const { return CHUNK / bytes(); }  // inputs of a chunk

    // Makes room for so many tokens of so many inputs, for weights of so many bits.
    void begin(int64_t tokens, int64_t numbers, int64_t tile, bool whole, int64_t bits) {
        count = tokens, inputs = numbers, together = whole, half = bits == 16;
        tiles = (count + tile - 1) / tile, tall = (count + tiles - 1) / tiles;
        groups = groups_of(inputs), chunks = (inputs + wide() - 1) / wide();
        values.resize((count + 1) * chunks * CHUNK);  // AMX reads one more of a tile that has fewer than others
        scales.resize(count), sums.resize(count);
    }

    // Rounds what `row` gives of each token, which it is asked for once: where its inputs are.
    template <typename Row>
    void read(Row row, int threads) {
#pragma omp parallel for num_threads(threads) if (count > FEW)
        for (int64_t token = 0; token < count; token++) {
            const float* from = row(token);
            Ints bits = {}, sum = {};
            for (int64_t i = 0; i < inputs && !half; i += LANES) bits = larger(sizes(some_of(from, i, inputs)), bits);
            const float by = scaled(token, bits);
            const int64_t tile = tile_of(token), wide = this->wide();
            const Place to = {begin_of(tile), token - start(tile)};
            for (int64_t i = 0; i < chunks; i++)
                sum += to.put(i, [&](int64_t j) { return some_of(from, i * wide + j, inputs) * by; });
            sums[token] = total(sum);
        }
    }

    // Rounds what a product gave.
    void read(const Passed& from, int threads) {
        std::vector<float> by(count);
        std::vector<Ints> parts(threads * count);
#pragma omp parallel num_threads(threads) if (count > FEW)
        {
            const int me = this_thread(), all = team();
            const int64_t count = this->count, panels = panels_of(inputs), some = wide() / LANES;
            const float* factors = by.data();
            Ints* mine = &parts[me * count];
#pragma omp for
            for (int64_t token = 0; token < count; token++) {
                Ints bits = {};
                for (int64_t i = 0; i < from.threads; i++) bits = larger(from.most[i * count + token], bits);
                by[token] = scaled(token, bits);
            }
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                const int64_t first = chunk * some;
                if (from.owners[first] % all != me) continue;
                const float* numbers = &from.numbers[first * count * LANES];
                for (int64_t tile = 0, token = 0; tile < tiles; tile++)
                    for (Place to = {begin_of(tile), 0}; to.token < to.tile.tokens; to.token++, token++)
                        mine[token] += to.put(chunk, [&](int64_t j) {
                            if (first + j / LANES >= panels) return Floats{};
                            return load<Floats>(numbers + j * count + token * LANES) * factors[token];
                        });
            }
#pragma omp barrier
#pragma omp for
            for (int64_t token = 0; token < count; token++) {
                Ints sum = {};
                for (int i = 0; i < all; i++) sum += parts[i * count + token];
                sums[token] = total(sum);
            }
        }
    }

  private:
    // Where a tile begins, and what is to be known of it.
    struct Tile {
        int8_t* at;
        int64_t tokens;
        bool together, half;
    };

    Tile begin_of(int64_t tile) {
        return {&values[start(tile) * chunks * CHUNK], start(tile + 1) - start(tile), together, half};
    }

    // Where the numbers of a token are put: the one of a tile that has this place.
    struct Place {
        Tile tile;
        int64_t token;

        // Rounds the inputs of a chunk, of which `some` gives 16 from one on; the sums of whole numbers are returned.
        template <typename Some>
        Ints put(int64_t chunk, Some some) const {
            int8_t* at = tile.at + chunk * CHUNK * tile.tokens;
            Ints sum = {};
            if (tile.half)
                for (int64_t i = 0; i < CHUNK / 2; i += LANES) store(at, 2 * i, narrowed(some(i)));
            else
                for (int64_t i = 0; i < CHUNK; i += LANES) {
                    typedef int8_t Small __attribute__((vector_size(16)));
                    const Floats near = some(i) + 12582912.0f;  // which leaves no room behind the point
                    const Ints found = load<Ints>(&near) - 0x4b400000;
                    store(at, i, __builtin_convertvector(found, Small));
                    sum += found;
                }
            return sum;
        }

        // From a byte of the token on.
        template <typename Numbers>
        void store(int8_t* chunk, int64_t byte, const Numbers& numbers) const {
            if (tile.together)
                std::memcpy(chunk + token * CHUNK + byte, &numbers, sizeof(numbers));
            else
                for (int64_t i = 0; i < int64_t(sizeof(numbers)); i += FOUR)
                    std::memcpy(chunk + (byte + i) * tile.tokens + FOUR * token, (const char*)&numbers + i, FOUR);
        }
    };

    // Sets the scale of a token by the bits of its largest sizes; what its numbers are multiplied with.
    float scaled(int64_t token, const Ints& bits) {
        if (half) return scales[token] = 1;
        const int32_t most = highest(bits);
        const float largest = load<float>(&most);
        // What is not finite shall be seen in what it gives, not rounded to something.
        scales[token] = std::isfinite(largest) ? largest / 127 : std::numeric_limits<float>::quiet_NaN();
        return largest > SMALL ? 127 / largest : 0;
    }

    static int32_t total(Ints sum) {
        int32_t found = 0;
        for (int64_t i = 0; i < LANES; i++) found += sum[i];
        return found;
    }
};

}  // namespace
