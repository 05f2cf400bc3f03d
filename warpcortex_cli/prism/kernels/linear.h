// Linear layers: tokens times packed weights, with the outputs consumed while they are in cache.

#pragma once

#include "byte_tiles.h"
#include "lora.h"

namespace {

struct Linear {
    const uint8_t* weights;
    const float* bias;  // or null
    int64_t format, outputs;
};

// How panels are paired: panel i * `step` with panel i * `step` + `next`, if there is one.
struct Pairing {
    int64_t panels, step, next;

    int64_t count() const { return step == 1 ? next : (panels + 1) / 2; }
};

inline Pairing neighbours(int64_t outputs) { return {panels_of(outputs), 2, 1}; }
inline Pairing halves(int64_t outputs) { return {panels_of(outputs), 1, panels_of(outputs) / 2}; }

// The outputs of one panel or two for all tokens.
class Outputs {
  public:
    const int64_t panel, panels;  // the first one's number

    Outputs(const Tokens& x, const Floats* sums, int64_t panel, int64_t panels)
        : panel(panel), panels(panels), x(x), sums(sums) {}

    // `times`: factors of the sums, or null.
    void scaled(int64_t p, const uint8_t* times, const float* bias, int64_t outputs) {
        float more[LANES] = {};
        if (bias) std::copy_n(bias, std::min(LANES, outputs), more);
        scale[p] = times ? load<Floats>(times) : splat(1.0f), plus[p] = load<Floats>(more);
    }

    // Prefetches these bytes while outputs are used, when memory would be idle.
    void meanwhile(const uint8_t* later, int64_t bytes) {
        this->later = later, lines = (bytes / LINE + x.count - 1) / x.count;
    }

    // What is added to each token's outputs, last: [panels, tokens].
    void with(const Floats* added) { more = added; }

    // Calls `use` with each token and its outputs of the first panel and of the second.
    template <typename Use>
    void each(Use use) const {
        const uint8_t* asked = later;
        const int64_t tall = x.tall, places = x.places();  // copies: for all the compiler knows, `use` changes these
        for (int64_t tile = 0; tile < x.tiles; tile++)
            for (int64_t token = x.start(tile), end = x.start(tile + 1), i = tile * tall; token < end; token++, i++) {
                for (int64_t line = 0; line < lines; line++, asked += LINE) __builtin_prefetch(asked, 0, 2);
                use(token, value(0, token, i), panels == 2 ? value(1, token, i + places) : Floats{});
            }
    }

  private:
    const Tokens& x;
    const Floats* sums;
    Floats scale[2], plus[2];
    const Floats* more = nullptr;
    const uint8_t* later = nullptr;
    int64_t lines = 0;

    Floats value(int p, int64_t token, int64_t place) const {
        const Floats found = load<Floats>(sums + place) * (scale[p] * x.scales[token]) + plus[p];
        return more ? found + more[p * x.count + token] : found;
    }
};

template <int FORMAT, int P>
void by_vectors(const Tokens& x, const Panels& panels, int64_t jump, Floats* sums) {
    if constexpr (bits_of(FORMAT) == 4) vector_sums<FORMAT, BYTES, P>(x, panels, jump, sums);
    else if constexpr (!unquantized(FORMAT)) vector_sums<FORMAT, WHOLE, P>(x, panels, jump, sums);
    else if constexpr (kind_for(FORMAT) == HALF) vector_sums<FORMAT, HALF, P>(x, panels, jump, sums);
    else vector_sums<FORMAT, FULL, P>(x, panels, jump, sums);
}

constexpr int64_t READ_AHEAD = 96 * 1024;  // bytes: fits into any CPU's L2

inline int64_t pairs_of_a_task(const Tokens& x) { return x.together ? TASK : 1; }

// Calls `use` with the outputs of each pair of panels, in the thread that computed them. Does not wait for other threads.
// `added`: by adapters; or null.
template <int FORMAT, typename Use>
void multiplied(Team& team, const Linear& by, const Tokens& x, const Pairing& pairing, const Added* added, Use use) {
    static thread_local AlignedVector<Floats> held, more;
    const int64_t size = panel_bytes<FORMAT>(x.inputs), count = pairing.count(), each = pairs_of_a_task(x);
    held.resize(2 * each * x.places());
    Floats* room = held.data();
    if (added) more.resize(2 * x.count);
    const TileConfig config(x.together ? x.tall : 0, FORMAT == BF16 ? TALL : DEEP_BYTES);
    const auto sum = [&](const Pairs& pairs) {
        if (x.together) {
            if constexpr (FORMAT == BF16) return half_sums(x, pairs, room);
            else if constexpr (!unquantized(FORMAT) && !PLANES<FORMAT>) return byte_sums<FORMAT>(x, pairs, room);
        }
        const Panels both = pairs[0];
        std::fill_n(room, both.count * x.places(), Floats{});
        if (both.count == 2 && PAIR == 2 && x.count > BUSY)  // as many sums as registers hold
            return by_vectors<FORMAT, PAIR>(x, both, pairs.next - size, room);
        for (int64_t p = 0; p < both.count; p++)
            by_vectors<FORMAT, 1>(x, {both.at + p * both.panel, 0, 1}, 0, room + p * x.places());
    };
    team.share((count + each - 1) / each, [&](int64_t task) {
        const int64_t first = task * each, here = std::min(each, count - first);
        const bool odd = (first + here - 1) * pairing.step + pairing.next >= pairing.panels;
        const uint8_t* at = by.weights + first * pairing.step * size;
        const Pairs pairs = {at, pairing.next * size, pairing.step * size, here, odd};
        sum(pairs);
        for (int64_t i = 0; i < here; i++) {
            const Panels panels = pairs[i];
            Outputs found(x, room + 2 * i * x.places(), (first + i) * pairing.step, panels.count);
            for (int64_t p = 0; p < panels.count; p++) {
                const int64_t output = (found.panel + p * pairing.next) * LANES;
                found.scaled(p, panels.at + p * panels.panel + times_at<FORMAT>(x.groups),
                             by.bias ? by.bias + output : nullptr, by.outputs - output);
            }
            if (added) {
                for (int64_t p = 0; p < panels.count; p++)
                    added->find(found.panel + p * pairing.next, more.data() + p * x.count);
                found.with(more.data());
            }
            // The next task's first pair was prefetched already.
            if (x.together) found.meanwhile(at + (here + 1) * pairs.next + i * pairs.panel, CLOSE * GROUP_BYTES<FORMAT>);
            use(found);
        }
    });
}

template <typename Use>
void multiplied(Team& team, const Linear& by, const Tokens& x, const Pairing& pairing, const Added* added, Use use) {
    with_format(by.format, [&](auto format) { multiplied<decltype(format)::value>(team, by, x, pairing, added, use); });
}

// The weights that a thread will read first in a product.
inline Later beginning(const Team& team, const Linear& by, int64_t inputs, const Pairing& pairing) {
    const int64_t size = with_format(by.format, [&](auto format) { return panel_bytes<decltype(format)::value>(inputs); });
    const int64_t first = team.first(pairing.count()), count = team.last(pairing.count()) - first;
    const uint8_t* at = by.weights + first * pairing.step * size;
    if (pairing.step == 1) return {{at, at + pairing.next * size}, std::min(count * size, READ_AHEAD / 2)};
    return {{at, nullptr}, std::min(count * 2 * size, READ_AHEAD)};
}

// Buffers that threads share.
struct Room {
    Tokens tokens;
    Intermediate intermediate;
    AlignedVector<float> part;
    LoraRoom lora;
};

// Tokens to be multiplied with weights of a format. Few tokens are each thread's own, many are shared.
inline Tokens& begun(Team& team, Room& room, int64_t tokens, int64_t inputs, int64_t format) {
    static thread_local Tokens own;
    const bool few = tokens <= FEW;
    Tokens& found = few ? own : room.tokens;
    if (few || team.me == 0) found.begin(tokens, inputs, format);
    if (!few) team.wait();
    return found;
}

// The same in a team of its own; `row` gives each token's inputs.
template <typename Row, typename Use>
void multiplied(const Linear& by, Row row, int64_t tokens, int64_t inputs, const Pairing& pairing, int threads,
                Use use) {
    if (tokens == 0) return;
    static thread_local Room held;
    Room& room = held;
    together(threads, [&](Team& team) {
        Tokens& rounded = begun(team, room, tokens, inputs, by.format);
        rounded.read(team, row);
        multiplied(team, by, rounded, pairing, nullptr, [&](const Outputs& found) { use(team, found); });
    });
}

// Inputs of tokens in a row-major matrix.
inline auto rows(const float* x, int64_t inputs) {
    return [=](int64_t token) { return x + token * inputs; };
}

// Where outputs go: strides in numbers from one token to the next, and from 16 outputs of a token to its `next` 16.
struct Grid {
    float* at;
    int64_t token, next;
};

inline Grid plain(float* at, int64_t width) { return {at, width, LANES}; }
inline Grid by_panels(float* at, int64_t tokens) { return {at, LANES, tokens * LANES}; }

// Writes outputs to a grid.
inline auto into(Grid out, int64_t outputs) {
    return [out, outputs](const Outputs& found) {
        const int64_t here = outputs - found.panel * LANES;
        float* to = out.at + found.panel * out.next;
        found.each([&](int64_t token, const Floats& first, const Floats& second) {
            if (here >= 2 * LANES) {
                put(to + token * out.token, first);
                put(to + token * out.token + out.next, second);
            } else {
                std::memcpy(to + token * out.token, &first, std::min(LANES, here) * sizeof(float));
                if (here > LANES)
                    std::memcpy(to + token * out.token + out.next, &second, (here - LANES) * sizeof(float));
            }
        });
    };
}

}  // namespace
