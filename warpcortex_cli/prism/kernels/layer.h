// What a layer does before and after attention.

#pragma once

#include "linear.h"

namespace {

struct Norm {
    const float* weight;  // or null, where the layer has no such norm
    float epsilon;
};

// What all tokens of a step go through, in each layer, before and after they attend.
struct Layer {
    int64_t width, heads, kv_heads, d, inner, gelu;
    Norm first, query, key, attended, second, fed;
    Linear qkv, output, gate_up, down;
};

constexpr int64_t SOME = 256;  // tokens taken at once: what they need besides stays small, however long a prefill is

inline void normalized(const Norm& norm, const float* x, float* out, int64_t width) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
    const float by = 1 / std::sqrt(sum / float(width) + norm.epsilon);
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * by * norm.weight[i];
}

// The first `turned` numbers of a head, turned as transformers' rotate_half does: number i with i + turned / 2.
inline void turn(float* x, const float* cosine, const float* sine, int64_t turned) {
    const int64_t half = turned / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i + half] + a * sine[i + half];
    }
}

// act(gate) * up, where act(x) is x times the logistic function of x, or of what makes it GELU's approximation by tanh.
inline Floats activated(Floats gate, Floats up, bool gelu) {
    const Floats z = -LOG2E * (gelu ? 1.595769122f * (gate + 0.044715f * gate * gate * gate) : gate);
    return gate * up * inverse(1.0f + power(choose(z > 125.0f, splat(125.0f), z)));
}

// A row of this thread, to compute something in.
inline float* own_row(int64_t numbers) {
    static thread_local Lines<float> held;
    held.resize(numbers);
    return held.data();
}

// From hidden states [rows, width] to queries, keys and values [rows, heads + 2 * kv_heads, d], queries and keys turned
// by cosine and sine [rows, turned]; to `half`, too, in bfloat16, unless it is null. Then `use` is called with the row.
template <typename Use>
void before(const Layer& layer, const float* hidden, const float* cosine, const float* sine, int64_t turned, float* out,
            uint16_t* half, int64_t rows, int threads, Use use) {
    const int64_t wide = layer.qkv.outputs;
    for (int64_t start = 0; start < rows; start += SOME) {
        const int64_t here = std::min(SOME, rows - start);
        const auto normed = [&](int64_t row) {
            float* to = own_row(layer.width);
            normalized(layer.first, hidden + (start + row) * layer.width, to, layer.width);
            return to;
        };
        multiplied(layer.qkv, normed, here, layer.width, neighbours(wide), threads,
                   into(plain(out + start * wide, wide), wide));
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = start; row < start + here; row++) {
            for (int64_t head = 0; head < layer.heads + layer.kv_heads; head++) {
                float* x = out + row * wide + head * layer.d;
                const Norm& norm = head < layer.heads ? layer.query : layer.key;
                if (norm.weight) normalized(norm, x, x, layer.d);
                turn(x, cosine + row * turned, sine + row * turned, turned);
            }
            for (int64_t i = row * wide; half && i < (row + 1) * wide; i += LANES) put(half + i, lanes(out + i));
            use(row);
        }
    }
}

// out [rows, width]: hidden states plus what the heads read [rows, heads * d], and plus what the feed-forward part
// makes of both.
template <typename T>
void after(const Layer& layer, const float* hidden, const T* read, float* out, int64_t rows, int threads) {
    const int64_t width = layer.width, filled = panels_of(width) * LANES, heads = layer.heads * layer.d;
    static thread_local Lines<float> room;
    static thread_local Passed held;
    Passed& inner = held;
    room.resize(std::min(rows, SOME) * filled);
    float* part = room.data();
    for (int64_t start = 0; start < rows; start += SOME) {
        const int64_t here = std::min(SOME, rows - start);
        const float* x = hidden + start * width;
        float* to = out + start * width;
        const auto heard = [&](int64_t row) {
            const T* from = read + (start + row) * heads;
            if constexpr (std::is_same<T, float>::value) return from;
            float* wide = own_row(heads);
            for (int64_t i = 0; i < heads; i += LANES) put(wide + i, lanes(from + i));
            return (const float*)wide;
        };
        const auto add = [&](const Norm& norm, const float* x, int64_t row) {
            float* own = own_row(filled);
            for (int64_t i = 0; i < filled; i += LANES)
                put(own + i, load<Floats>(part + i * here + row * LANES));
            if (norm.weight) normalized(norm, own, own, width);
            for (int64_t i = 0; i < width; i++) to[row * width + i] = x[row * width + i] + own[i];
        };
        const auto normed = [&](int64_t row) {
            add(layer.attended, x, row);
            float* own = own_row(width);
            normalized(layer.second, to + row * width, own, width);
            return own;
        };
        multiplied(layer.output, heard, here, heads, neighbours(width), threads, into(by_panels(part, here), width));
        // Gates and what goes through them are never held as a whole.
        inner.begin(here, layer.inner, threads);
        multiplied(layer.gate_up, normed, here, width, halves(layer.gate_up.outputs), threads,
                   [&](const Outputs& found) {
                       const Passed::Hand hand = inner.hand(found.panel);
                       found.each([&](int64_t row, const Floats& gate, const Floats& up) {
                           hand.put(row, activated(gate, up, layer.gelu));
                       });
                   });
        Tokens& rounded = begun(here, layer.inner, layer.down.format);
        rounded.read(inner, threads);
        multiplied(layer.down, rounded, neighbours(width), threads, into(by_panels(part, here), width));
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = 0; row < here; row++) add(layer.fed, to, row);
    }
}

}  // namespace
