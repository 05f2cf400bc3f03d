// Tokens as products take them: rounded to int8, each with a scale of its own.

#pragma once

#include "panels.h"

#include <limits>

namespace {

// Numbers of tokens in fp32, of which 16 of a token lie side by side: `token` numbers further begins the next token,
// `next` numbers further the next 16 of the same one.
struct Grid {
    float* at;
    int64_t token, next;
};

inline Grid plain(const float* at, int64_t width) { return {const_cast<float*>(at), width, LANES}; }
// As panels give their outputs: those of a panel for all tokens, one behind the other.
inline Grid by_panels(float* at, int64_t tokens) { return {at, LANES, tokens * LANES}; }

constexpr float SMALL = 1e-36f;  // what is not larger is taken for 0: 127 divided by it may be infinite
constexpr int64_t FEW = 12;  // up to so many tokens, other threads would take longer to come than small work does

// Tokens lie in tiles, as even as can be, and in a tile by chunks of inputs. Of a chunk either all inputs of a token
// stand together, as AMX takes them, or four of all tokens.
struct Tokens {
    int64_t count, groups, chunks;
    int64_t tiles, tall;  // and tokens of a tile, at most
    bool together;
    std::vector<int8_t> values;
    std::vector<float> scales;
    std::vector<int32_t> sums;  // of a token's values

    int64_t start(int64_t tile) const { return count * tile / tiles; }
    int64_t tile_of(int64_t token) const { return ((token + 1) * tiles - 1) / count; }
    // Sums of all tokens have a place each, and so has what a tile lacks that is smaller than others.
    int64_t places() const { return tiles * tall; }
    const int8_t* tile(int64_t number) const { return &values[start(number) * chunks * CHUNK]; }

    void read(Grid x, int64_t tokens, int64_t inputs, int64_t tile, bool whole, int threads) {
        count = tokens, together = whole;
        tiles = (count + tile - 1) / tile, tall = (count + tiles - 1) / tiles;
        groups = groups_of(inputs), chunks = (inputs + CHUNK - 1) / CHUNK;
        values.resize((count + 1) * chunks * CHUNK);  // AMX reads one more of a tile that has fewer than others
        scales.resize(count);
        sums.resize(count);
#pragma omp parallel for num_threads(threads) if (count > FEW)
        for (int64_t token = 0; token < count; token++) round(x, inputs, token);
    }

  private:
    void round(Grid x, int64_t inputs, int64_t token) {
        typedef int8_t Small __attribute__((vector_size(16)));
        const float* from = x.at + token * x.token;
        const int64_t number = tile_of(token), first = start(number), wide = start(number + 1) - first;
        int8_t* to = &values[first * chunks * CHUNK];
        const auto numbers = [&](int64_t i) {
            if (i + LANES <= inputs) return load<Floats>(from + i / LANES * x.next);
            Floats found = {};
            if (i < inputs) std::memcpy(&found, from + i / LANES * x.next, (inputs - i) * sizeof(float));
            return found;
        };
        // The largest, as bits: without signs these are in the same order, infinity and NaN last.
        Ints bits = {};
        for (int64_t i = 0; i < inputs; i += LANES) {
            const Floats some = numbers(i);
            const Ints size = load<Ints>(&some) & 0x7fffffff;
            bits = size > bits ? size : bits;
        }
        int32_t most = 0;
        for (int64_t i = 0; i < LANES; i++) most = std::max(most, int32_t(bits[i]));
        const float largest = load<float>(&most);
        // What is not finite shall be seen in what it gives, not rounded to something.
        scales[token] = std::isfinite(largest) ? largest / 127 : std::numeric_limits<float>::quiet_NaN();
        const float by = largest > SMALL ? 127 / largest : 0;
        Ints sum = {};
        for (int64_t i = 0; i < chunks * CHUNK; i += LANES) {
            const Floats near = numbers(i) * by + 12582912.0f;  // which leaves no room behind the point
            const Ints some = load<Ints>(&near) - 0x4b400000;
            const Small small = __builtin_convertvector(some, Small);
            sum += some;
            int8_t* chunk = to + i / CHUNK * CHUNK * wide;
            if (together)
                std::memcpy(chunk + (token - first) * CHUNK + i % CHUNK, &small, LANES);
            else
                for (int64_t j = 0; j < LANES; j += FOUR)
                    std::memcpy(chunk + (i % CHUNK + j) * wide + FOUR * (token - first), (const char*)&small + j, FOUR);
        }
        sums[token] = 0;
        for (int64_t i = 0; i < LANES; i++) sums[token] += sum[i];
    }
};

}  // namespace
