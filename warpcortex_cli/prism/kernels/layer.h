// What a layer does before and after attention.

#pragma once

#include "products.h"

namespace {

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

// The first `turned` numbers of a head, turned as transformers' rotate_half does: number i with i + turned / 2.
inline void turn(float* x, const float* cosine, const float* sine, int64_t turned) {
    const int64_t half = turned / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i + half] + a * sine[i + half];
    }
}

// out = act(gate) * up, where act(x) is x times the logistic function of x, or of what makes it GELU's approximation
// by tanh.
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

// out [rows, width]: hidden states plus what the heads read [rows, heads * d], and plus what the feed-forward part makes
// of both.
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
