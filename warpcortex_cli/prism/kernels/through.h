// Several layers in one call: between them nobody is waited for.

#pragma once

#include "attention.h"
#include "layer.h"

namespace {

// What `through` is given. Keys and values are in bfloat16, and so are queries and what heads read.
struct Through {
    const Layer* const* layers;
    const float* scalings;  // of the scores of each layer
    int64_t count, first;   // how many layers, and the number of the first
    float* hidden;          // [rows, width]: what comes in, and what goes out
    const float *cosine, *sine;
    int64_t turned, rows;
    float* qkv;                 // room: [rows, heads + 2 * kv_heads, d]
    uint16_t *own_qkv, *read;  // the same in bfloat16, and [rows, heads, d]
    uint16_t* queries;          // [count, heads, watched, d] of the rows from `watch` on, to be looked at later
    int64_t watch, watched;
};

inline void through(const Through& t, Attention a, int threads) {
    std::vector<const Readers*> groups(t.rows);  // of each row
    for (int64_t g = 0; g < a.count; g++)
        std::fill_n(&groups[a.groups[g]->start], a.groups[g]->tokens, a.groups[g]);
    for (int64_t i = 0; i < t.count; i++) {
        const Layer& layer = *t.layers[i];
        const int64_t wide = layer.qkv.outputs, d = layer.d;
        const uint16_t* qkv = t.own_qkv;
        a.query = qkv, a.key = qkv + layer.heads * d, a.value = qkv + (layer.heads + layer.kv_heads) * d;
        a.query_head = a.key_head = a.value_head = d, a.query_row = a.key_row = a.value_row = wide;
        a.out = t.read, a.kv_heads = layer.kv_heads, a.shared = layer.heads / layer.kv_heads, a.d = d;
        a.layer = t.first + i, a.scaling = t.scalings[i];
        before(layer, t.hidden, t.cosine, t.sine, t.turned, t.qkv, t.own_qkv, t.rows, threads,
               [&](int64_t row) { keep<uint16_t>(a, *groups[row], row - groups[row]->start); });
        for (int64_t head = 0; head < layer.heads; head++)
            for (int64_t row = 0; row < t.watched; row++)
                std::copy_n(qkv + (t.watch + row) * wide + head * d, d,
                            t.queries + ((i * layer.heads + head) * t.watched + row) * d);
        attended<uint16_t>(a, threads);
        after(layer, t.hidden, (const uint16_t*)t.read, t.hidden, t.rows, threads);
    }
}

}  // namespace
