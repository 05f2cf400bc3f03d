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
    return gate * up * inverse(1 + power(z > 125 ? splat(125.0f) : z));
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
        multiplied(layer.qkv, plain(normed, layer.width), plain(out + start * wide, wide), here, layer.width,
                   threads);
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

// out [rows, width]: hidden states plus what the heads read [rows, heads * d], and plus what the feed-forward part
// makes of both.
void after(const Layer& layer, const float* hidden, const float* read, float* out, int64_t rows, int threads) {
    const int64_t width = layer.width, most = std::min(rows, SOME), filled = panels_of(width) * LANES;
    static thread_local std::vector<float> room;
    room.resize(most * (filled + width + layer.inner));
    float *normed = room.data(), *inner = normed + most * width;
    float* part = inner + most * layer.inner;
    const auto add = [&](const Norm& norm, const float* x, float* to, int64_t row, int64_t here) {
        static thread_local std::vector<float> own;
        own.resize(filled);
        for (int64_t i = 0; i < filled; i += LANES) std::memcpy(&own[i], part + i * here + row * LANES, sizeof(Floats));
        if (norm.weight) normalized(norm, own.data(), own.data(), width);
        for (int64_t i = 0; i < width; i++) to[row * width + i] = x[row * width + i] + own[i];
    };
    for (int64_t start = 0; start < rows; start += SOME) {
        const int64_t here = std::min(SOME, rows - start);
        const float* x = hidden + start * width;
        float* to = out + start * width;
        multiplied(layer.output, plain(read + start * layer.heads * layer.d, layer.heads * layer.d),
                   by_panels(part, here), here, layer.heads * layer.d, threads);
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = 0; row < here; row++) {
            add(layer.attended, x, to, row, here);
            normalized(layer.second, to + row * width, normed + row * width, width);
        }
        // A task has some gates and what goes through them, so that neither is ever held as a whole.
        multiplied(layer.gate_up, plain(normed, width), here, width, halves(layer.gate_up.outputs), threads,
                   [&](const Outputs& found) {
                       found.each([&](int64_t row, const Floats& gate, const Floats& up) {
                           const Floats some = activated(gate, up, layer.gelu);
                           std::memcpy(inner + (found.panel * here + row) * LANES, &some, sizeof(some));
                       });
                   });
        multiplied(layer.down, by_panels(inner, here), by_panels(part, here), here, layer.inner, threads);
#pragma omp parallel for num_threads(threads) if (here > FEW)
        for (int64_t row = 0; row < here; row++) add(layer.fed, to, to, row, here);
    }
}

}  // namespace
