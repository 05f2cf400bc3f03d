// The C interface of the kernels, called by prism/native.py.

#include "blocks.h"
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

// Matrices out of files; each says how it went.
void pack_blocks(Blocky* all, int64_t count, int threads) { packed_blocks(all, count, threads); }

void unpack(int format, const uint8_t* weights, const int64_t* which, int64_t rows, int64_t inputs, float* out) {
    with_format(format, [&](auto format) { unpacked<decltype(format)::value>(weights, which, rows, inputs, out); });
}

void multiply(int format, const float* x, const uint8_t* weights, const float* bias, float* out, int64_t tokens,
              int64_t inputs, int64_t outputs, int threads) {
    const auto put = into(plain(out, outputs), outputs);
    multiplied({weights, bias, format, outputs}, rows(x, inputs), tokens, inputs, neighbours(outputs), threads,
               [&](const Team&, const Outputs& found) { put(found); });
}

// The maximum output of each token, its index, and the logsumexp.
void summarize(int format, const float* x, const uint8_t* weights, const float* bias, int64_t rows, int64_t inputs,
               int64_t outputs, float* values, int64_t* places, float* totals, int threads) {
    summarized({weights, bias, format, outputs}, x, rows, inputs, threads, values, places, totals);
}

// Whether rows of many tokens attend faster here than in torch.
int attends_many(int half, int64_t d) { return half && tiled<uint16_t>(d); }

void attend(int half, const Attention* given, int threads) {
    (half ? kept_and_attended<uint16_t> : kept_and_attended<float>)(*given, threads);
}

// `adapted`: adapters of some rows, or null.
void before_attention(const Layer* layer, const Adapted* adapted, const float* hidden, const float* cosine,
                      const float* sine, int64_t turned, float* out, int64_t rows, int threads) {
    static thread_local Room held;
    Room& room = held;
    room.lora.reserve(adapted, std::min(rows, SOME), layer->width);
    together(threads, [&](Team& team) {
        Laps laps(nullptr);
        before(team, room, *layer, adapted, hidden, cosine, sine, turned, out, rows, laps,
               [](int64_t, int64_t, float*) {});
    });
}

// `hidden` is updated in place.
void after_attention(const Layer* layer, const Adapted* adapted, float* hidden, const float* read, int64_t rows,
                     int threads) {
    static thread_local Room held;
    Room& room = held;
    reserve(room, *layer, adapted, rows, threads);
    together(threads, [&](Team& team) {
        const LocalHidden own(team, hidden, rows, layer->width);
        Laps laps(nullptr);
        after(team, room, *layer, adapted, read, own.hidden, rows, laps, nullptr);
        own.write_back();
    });
}

void through_layers(const Through* given, const Attention* attention, int threads) {
    through(*given, *attention, threads);
}

}
