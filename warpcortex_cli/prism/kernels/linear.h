// Linear layers: tokens times packed weights, and what becomes of the products while they are near.

#pragma once

#include "tiles.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

inline int this_thread() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

struct Linear {
    const uint8_t* weights;
    const float* bias;  // or null
    int64_t bits, outputs;
};

// Which panels a task takes: `number` * `step`, and another one `next` further, if there is one.
struct Tasks {
    int64_t panels, step, next;

    int64_t count() const { return step == 1 ? next : (panels + 1) / 2; }
};

inline Tasks neighbours(int64_t outputs) { return {panels_of(outputs), 2, 1}; }
inline Tasks halves(int64_t outputs) { return {panels_of(outputs), 1, panels_of(outputs) / 2}; }

// What a task found: the outputs of one panel or two for all tokens.
class Outputs {
  public:
    const int64_t panel, panels;  // the first one's number

    Outputs(const Tokens& x, const Ints* sums, int64_t panel, int64_t panels)
        : panel(panel), panels(panels), x(x), sums(sums) {}

    void scaled(int64_t p, const uint8_t* scales, const float* bias, int64_t outputs) {
        float more[LANES] = {};
        if (bias) std::copy_n(bias, std::min(LANES, outputs), more);
        scale[p] = load<Floats>(scales), plus[p] = load<Floats>(more);
    }

    // Calls `use` with each token and its outputs of the first panel and of the second.
    template <typename Use>
    void each(Use use) const {
        const int64_t tall = x.tall, places = x.places();  // for all the compiler knows, `use` changes these
        for (int64_t tile = 0; tile < x.tiles; tile++)
            for (int64_t token = x.start(tile), end = x.start(tile + 1), i = tile * tall; token < end; token++, i++)
                use(token, value(0, token, i), panels == 2 ? value(1, token, i + places) : Floats{});
    }

  private:
    const Tokens& x;
    const Ints* sums;
    Floats scale[2], plus[2];

    Floats value(int p, int64_t token, int64_t place) const {
        const Ints sum = sums[place] - EXTRA * x.sums[token];
        return __builtin_convertvector(sum, Floats) * (scale[p] * x.scales[token]) + plus[p];
    }
};

// Calls `use` with the outputs of each task.
template <int BITS, typename Use>
void multiplied(const Linear& by, const Tokens& x, const Tasks& tasks, int64_t inputs, int threads, Use use) {
    const int64_t size = panel_bytes<BITS>(inputs), share = std::max<int64_t>(1, tasks.count() / (8 * threads));
#pragma omp parallel num_threads(threads)
    {
        std::vector<Ints> room(2 * x.places());
        const Forms forms(x.together ? x.tall : 0);
        const auto sum = [&](const uint8_t* first, int64_t panels) {
            const Panels both = {first, tasks.next * size, (tasks.step - 1) * size};
            if (x.together)
                (panels == 2 ? tile_sums<BITS, 2> : tile_sums<BITS, 1>)(x, both, room.data());
            else if (panels == 2 && PAIR == 2 && x.count > BUSY)  // as many sums as registers hold
                vector_sums<BITS, PAIR>(x, both, room.data());
            else
                for (int64_t p = 0; p < panels; p++)
                    vector_sums<BITS, 1>(x, {first + p * both.panel, 0, 0}, room.data() + p * x.places());
        };
        // In small shares: other programs take time of single cores, and nobody shall wait for the slowest.
#pragma omp for schedule(dynamic, share)
        for (int64_t task = 0; task < tasks.count(); task++) {
            const int64_t first = task * tasks.step, panels = first + tasks.next < tasks.panels ? 2 : 1;
            const uint8_t* weights = by.weights + first * size;
            sum(weights, panels);
            Outputs found(x, room.data(), first, panels);
            for (int64_t p = 0; p < panels; p++) {
                const int64_t output = (first + p * tasks.next) * LANES;
                found.scaled(p, weights + p * tasks.next * size + scales_at<BITS>(x.groups),
                             by.bias ? by.bias + output : nullptr, by.outputs - output);
            }
            use(found);
        }
    }
}

template <typename Use>
void multiplied(const Linear& by, Grid x, int64_t tokens, int64_t inputs, const Tasks& tasks, int threads, Use use) {
    static thread_local Tokens held;
    Tokens& rounded = held;  // this thread's, for all that take part
    if (tokens == 0) return;
    rounded.read(x, tokens, inputs, tiles_work() ? TALL : TILE, tiles_work(), threads);
    (by.bits == 4 ? multiplied<4, Use> : multiplied<8, Use>)(by, rounded, tasks, inputs, threads, use);
}

// out = x times weights, plus the bias.
inline void multiplied(const Linear& by, Grid x, Grid out, int64_t tokens, int64_t inputs, int threads) {
    multiplied(by, x, tokens, inputs, neighbours(by.outputs), threads, [&](const Outputs& found) {
        const int64_t here = by.outputs - found.panel * LANES;
        float* to = out.at + found.panel * out.next;
        found.each([&](int64_t token, const Floats& first, const Floats& second) {
            if (here >= 2 * LANES) {
                std::memcpy(to + token * out.token, &first, sizeof(first));
                std::memcpy(to + token * out.token + out.next, &second, sizeof(second));
            } else {
                std::memcpy(to + token * out.token, &first, std::min(LANES, here) * sizeof(float));
                if (here > LANES)
                    std::memcpy(to + token * out.token + out.next, &second, (here - LANES) * sizeof(float));
            }
        });
    });
}

}  // namespace
