// A decoder layer before and after its attention.

#pragma once

#include "laps.h"
#include "linear.h"

namespace {

struct Norm {
    const float* weight;  // or null, where the layer has no such norm
    float epsilon;
};

// The sizes and weights of a decoder layer.
struct Layer {
    int64_t number, width, heads, kv_heads, d, inner, gelu;
    Norm first, query, key, attended, second, fed;
    Linear qkv, output, gate_up, down;
};

constexpr int64_t SOME = 256;  // tokens of a chunk: bounds the buffers, however long a prefill is

// Tokens of the next chunk when so many are left. Of many rows no chunk is of few: threads would all update the same rows.
inline int64_t chunk_of(int64_t left) { return left > SOME && left <= SOME + FEW ? left / 2 : std::min(SOME, left); }

inline void normalized(const Norm& norm, const float* x, float* out, int64_t width) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
    const float by = 1 / std::sqrt(sum / float(width) + norm.epsilon);
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * by * norm.weight[i];
}

// Rotary embedding of the first `turned` numbers of a head, as transformers' rotate_half: i pairs with i + turned / 2.
inline void turn(float* x, const float* cosine, const float* sine, int64_t turned) {
    const int64_t half = turned / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i + half] + a * sine[i + half];
    }
}

// act(gate) * up with act SiLU, or the tanh approximation of GELU; both are x times a sigmoid.
inline Floats activated(Floats gate, Floats up, bool gelu) {
    const Floats z = -LOG2E * (gelu ? 1.595769122f * (gate + 0.044715f * gate * gate * gate) : gate);
    return gate * up * inverse(1.0f + power(choose(z > 125.0f, splat(125.0f), z)));
}

// A scratch row of this thread.
inline float* own_row(int64_t numbers) {
    static thread_local AlignedVector<float> held;
    held.resize(numbers);
    return held.data();
}

// From hidden states [rows, width] to queries, keys and values [rows, heads + 2 * kv_heads, d], queries and keys rotated
// by cosine and sine [rows, turned]. Then calls `use` with each row, head and its numbers.
// `adapted`: adapters of some rows, or null.
template <typename Use>
void before(Team& team, Room& room, const Layer& layer, const Adapted* adapted, const float* hidden, const float* cosine,
            const float* sine, int64_t turned, float* out, int64_t rows, Laps& laps, Use use) {
    const int64_t wide = layer.qkv.outputs, heads = layer.heads + 2 * layer.kv_heads;
    for (int64_t start = 0, here; start < rows; start += here) {
        here = chunk_of(rows - start);
        Added added(room.lora, adapted, layer.number, &LoraLayer::qkv, start, here);
        Tokens& rounded = begun(team, room, here, layer.width, layer.qkv.format);
        rounded.read(team, added.keeping(layer.width, [&](int64_t row) {
            float* to = own_row(layer.width);
            normalized(layer.first, hidden + (start + row) * layer.width, to, layer.width);
            return to;
        }));
        added.begin(team, layer.width);
        laps.end(BETWEEN);
        multiplied(team, layer.qkv, rounded, neighbours(wide), added.if_any(),
                   into(plain(out + start * wide, wide), wide));
        team.later(beginning(team, layer.output, layer.heads * layer.d, neighbours(layer.width)));
        team.wait();
        laps.end(QKV);
        for (int64_t i = team.first(here * heads); i < team.last(here * heads); i++) {
            const int64_t row = start + i / heads, head = i % heads;
            float* x = out + row * wide + head * layer.d;
            if (head < layer.heads + layer.kv_heads) {
                const Norm& norm = head < layer.heads ? layer.query : layer.key;
                if (norm.weight) normalized(norm, x, x, layer.d);
                turn(x, cosine + row * turned, sine + row * turned, turned);
            }
            use(row, head, x);
        }
    }
    team.wait();
    laps.end(BETWEEN);
}

// Hidden states [rows, width] as a thread updates them. Of few rows each thread has a copy; thread 0 writes its copy back.
struct LocalHidden {
    float* hidden;

    LocalHidden(const Team& team, float* given, int64_t rows, int64_t width)
        : hidden(given), given(given), size(rows * width), first(team.me == 0) {
        static thread_local AlignedVector<float> own;
        if (rows <= FEW && team.threads > 1) own.assign(given, given + size), hidden = own.data();
    }
    // To be called when all threads have made their copies.
    void write_back() const {
        if (hidden != given && first) std::copy_n(hidden, size, given);
    }

  private:
    float* given;
    int64_t size;
    bool first;
};

// Allocates the buffers that `before` and `after` need for this many rows.
inline void reserve(Room& room, const Layer& layer, const Adapted* adapted, int64_t rows, int threads) {
    const int64_t here = std::min(rows, SOME), size = here * panels_of(layer.width) * LANES;
    if (int64_t(room.part.size()) < size) room.part.resize(size);
    room.intermediate.reserve(here, layer.inner, threads);
    room.lora.reserve(adapted, here, std::max(layer.width, layer.heads * layer.d));
}

// Adds attention's output projection of `read` [rows, heads * d] and the feed-forward part to hidden states [rows, width].
// Few rows are each thread's own copy; of many, a thread reads only rows that it has updated itself. `next`: qkv of the
// next layer, to prefetch, or null.
template <typename T>
void after(Team& team, Room& room, const Layer& layer, const Adapted* adapted, const T* read, float* hidden,
           int64_t rows, Laps& laps, const Linear* next) {
    const int64_t width = layer.width, filled = panels_of(width) * LANES, heads = layer.heads * layer.d;
    float* part = room.part.data();
    Intermediate& inner = room.intermediate;
    for (int64_t start = 0, here; start < rows; start += here) {
        here = chunk_of(rows - start);
        float* x = hidden + start * width;
        const auto add = [&](const Norm& norm, int64_t row) {
            float* own = own_row(filled);
            for (int64_t i = 0; i < filled; i += LANES) put(own + i, load<Floats>(part + i * here + row * LANES));
            if (norm.weight) normalized(norm, own, own, width);
            for (int64_t i = 0; i < width; i++) x[row * width + i] += own[i];
        };
        const auto added_to = [&](Lora LoraLayer::*linear) {
            return Added(room.lora, adapted, layer.number, linear, start, here);
        };
        Added to_output = added_to(&LoraLayer::output);
        Tokens& rounded = begun(team, room, here, heads, layer.output.format);
        rounded.read(team, to_output.keeping(heads, [&](int64_t row) {
            const T* from = read + (start + row) * heads;
            if constexpr (std::is_same<T, float>::value) return from;
            float* wide = own_row(heads);
            for (int64_t i = 0; i < heads; i += LANES) put(wide + i, lanes(from + i));
            return (const float*)wide;
        }));
        to_output.begin(team, heads);
        laps.end(BETWEEN);
        multiplied(team, layer.output, rounded, neighbours(width), to_output.if_any(),
                   into(by_panels(part, here), width));
        team.later(beginning(team, layer.gate_up, width, halves(layer.gate_up.outputs)));
        team.wait();
        laps.end(OUTPUT);
        Added to_gates = added_to(&LoraLayer::gate_up);
        begun(team, room, here, width, layer.gate_up.format).read(team, to_gates.keeping(width, [&](int64_t row) {
            add(layer.attended, row);
            float* own = own_row(width);
            normalized(layer.second, x + row * width, own, width);
            return own;
        }));
        to_gates.begin(team, width);
        laps.end(BETWEEN);
        // gate and up are never stored, only act(gate) * up.
        inner.begin(team, here);
        multiplied(team, layer.gate_up, rounded, halves(layer.gate_up.outputs), to_gates.if_any(),
                   [&](const Outputs& found) {
            const Intermediate::Writer writer = inner.writer(team, found.panel, here);
            found.each([&](int64_t row, const Floats& gate, const Floats& up) {
                writer.put(row, activated(gate, up, layer.gelu));
            });
        });
        team.later(beginning(team, layer.down, layer.inner, neighbours(width)));
        team.wait();
        laps.end(GATE_UP);
        Added to_down = added_to(&LoraLayer::down);
        begun(team, room, here, layer.inner, layer.down.format).read(team, inner);
        to_down.keep(inner.numbers.data());
        to_down.begin(team, layer.inner);
        laps.end(BETWEEN);
        multiplied(team, layer.down, rounded, neighbours(width), to_down.if_any(), into(by_panels(part, here), width));
        if (next) team.later(beginning(team, *next, width, neighbours(next->outputs)));
        team.wait();
        laps.end(DOWN);
        team.each(here, [&](int64_t row) { add(layer.fed, row); });
        laps.end(BETWEEN);
    }
}

}  // namespace
