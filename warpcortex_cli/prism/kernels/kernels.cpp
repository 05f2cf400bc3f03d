// What a CPU computes in a step, as Python calls it.

#include "head.h"
#include "through.h"

extern "C" {

int64_t packed_bytes(int format, int64_t outputs, int64_t inputs) {
    return panels_of(outputs) *
           with_format(format, [&](auto format) { return panel_bytes<decltype(format)::value>(inputs); });
}

void pack(int format, const float* weights, uint8_t* out, int64_t outputs, int64_t inputs, int threads) {
    with_format(format, [&](auto format) { packed<decltype(format)::value>(weights, out, outputs, inputs, threads); });
}

void pack_levels(int format, const uint8_t* levels, const float* scales, const float* minima, uint8_t* out,
                 int64_t outputs, int64_t inputs, int threads) {
    with_format(format, [&](auto format) {
        packed_levels<decltype(format)::value>(levels, scales, minima, out, outputs, inputs, threads);
    });
}

void unpack(int format, const uint8_t* weights, const int64_t* which, int64_t rows, int64_t inputs, float* out) {
    with_format(format, [&](auto format) { unpacked<decltype(format)::value>(weights, which, rows, inputs, out); });
}

void multiply(int format, const float* x, const uint8_t* weights, const float* bias, float* out, int64_t tokens,
              int64_t inputs, int64_t outputs, int threads) {
    multiplied({weights, bias, format, outputs}, rows(x, inputs), tokens, inputs, neighbours(outputs), threads,
               into(plain(out, outputs), outputs));
}

// The largest output of each token, its place, and the logarithm of the sum of all as powers of e.
void summarize(int format, const float* x, const uint8_t* weights, const float* bias, int64_t rows, int64_t inputs,
               int64_t outputs, float* values, int64_t* places, float* totals, int threads) {
    summarized({weights, bias, format, outputs}, x, rows, inputs, threads, values, places, totals);
}

// Whether rows of very many tokens attend faster here than elsewhere.
int attends_many(int half, int64_t d) { return half && tiled<uint16_t>(d); }

void attend(int half, const Attention* given, int threads) {
    (half ? kept_and_attended<uint16_t> : kept_and_attended<float>)(*given, threads);
}

void before_attention(const Layer* layer, const float* hidden, const float* cosine, const float* sine, int64_t turned,
                      float* out, int64_t rows, int threads) {
    before(*layer, hidden, cosine, sine, turned, out, nullptr, rows, threads, [](int64_t) {});
}

void after_attention(const Layer* layer, const float* hidden, const float* read, float* out, int64_t rows,
                     int threads) {
    after(*layer, hidden, read, out, rows, threads);
}

void through_layers(const Through* given, const Attention* attention, int threads) {
    through(*given, *attention, threads);
}

}
