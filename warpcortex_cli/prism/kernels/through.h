// Several layers in one call, without returning to Python between them.

#pragma once

#include "attention.h"
#include "layer.h"

namespace {

// The arguments of `through`. Queries, keys, values and attention's outputs are bfloat16.
struct Through {
    const Layer* const* layers;
    const float* scalings;  // of each layer's attention scores
    int64_t count, first;   // how many layers, and the number of the first
    float* hidden;          // [rows, width], updated in place
    const float *cosine, *sine;
    int64_t turned, rows;
    float* qkv;                // buffer: [rows, heads + 2 * kv_heads, d]
    uint16_t *own_qkv, *read;  // the same in bfloat16, and attention's output [rows, heads, d]
    uint16_t* queries;         // [count, heads, watched, d], out: the queries of rows [watch, watch + watched)
    int64_t watch, watched;
    const Adapted* adapted;  // adapters of some rows, or null
    double* seconds;         // [6], by `Part`, added to; or null
};

inline void through(const Through& t, const Attention& given, int threads) {
    static thread_local Room held;
    static thread_local Plan<uint16_t> planned;
    static thread_local AlignedVector<float> kept;
    Room& room = held;
    Plan<uint16_t>& plan = planned;
    const Layer& some = *t.layers[0];
    Attention attention = given;
    attention.kv_heads = some.kv_heads, attention.shared = some.heads / some.kv_heads, attention.d = some.d;
    plan.make(attention);
    kept.resize(plan.numbers(attention));
    float* states = kept.data();
    std::vector<const Readers*> groups(t.rows);  // of each row
    for (int64_t g = 0; g < given.count; g++)
        std::fill_n(&groups[given.groups[g]->start], given.groups[g]->tokens, given.groups[g]);
    for (int64_t i = 0; i < t.count; i++) reserve(room, *t.layers[i], t.adapted, t.rows, threads);
    together(threads, [&](Team& team) {
        const LocalHidden own(team, t.hidden, t.rows, some.width);
        Attention a = attention;
        Laps laps(team.me == 0 ? t.seconds : nullptr);
        for (int64_t i = 0; i < t.count; i++) {
            const Layer& layer = *t.layers[i];
            const int64_t wide = layer.qkv.outputs, d = layer.d;
            const uint16_t* qkv = t.own_qkv;
            a.query = qkv, a.key = qkv + layer.heads * d, a.value = qkv + (layer.heads + layer.kv_heads) * d;
            a.query_head = a.key_head = a.value_head = d, a.query_row = a.key_row = a.value_row = wide;
            a.out = t.read, a.layer = t.first + i, a.scaling = t.scalings[i];
            const auto use = [&](int64_t row, int64_t head, const float* x) {
                uint16_t* half = t.own_qkv + row * wide + head * d;
                for (int64_t n = 0; n < d; n += LANES) put(half + n, lanes(x + n));
                if (head >= layer.heads) {
                    keep<uint16_t>(a, *groups[row], row - groups[row]->start, head - layer.heads);
                } else if (row >= t.watch && row < t.watch + t.watched) {
                    const int64_t place = (i * layer.heads + head) * t.watched + row - t.watch;
                    std::copy_n(half, d, t.queries + place * d);
                }
            };
            before(team, room, layer, t.adapted, own.hidden, t.cosine, t.sine, t.turned, t.qkv, t.rows, laps, use);
            attended(team, a, plan, states);
            team.wait();
            laps.end(ATTENTION);
            after(team, room, layer, t.adapted, (const uint16_t*)t.read, own.hidden, t.rows, laps,
                  i + 1 < t.count ? &t.layers[i + 1]->qkv : nullptr);
        }
        own.write_back();
    });
}

}  // namespace
