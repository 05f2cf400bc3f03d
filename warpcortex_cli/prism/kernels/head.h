// Greedy sampling from a model's head without writing its logits to memory.

#pragma once

#include "linear.h"

namespace {

// One token's outputs in 16 lanes: per lane the maximum, its panel, and the sum of exp(output - maximum).
struct Best {
    Floats value = splat(std::numeric_limits<float>::lowest()), sum = {};
    Ints panel = {};

    void add(Floats some, int64_t number) {
        if (any_above(some, value))  // rare
            raise(some, number);
        else
            sum += exponential(some - value);
    }

  private:
    void raise(Floats some, int64_t number) {
        const Floats more = some - value;
        const Floats small = exponential(choose(more > 0.0f, -more, more));
        sum = choose(more > 0.0f, sum * small + 1.0f, sum + small);
        panel = choose(more > 0.0f, splat(int32_t(number)), panel);
        value = choose(more > 0.0f, some, value);
    }
};

// One token's maximum output, its first index, and the logsumexp. If any output is NaN, so is the maximum.
struct Summary {
    float value = std::numeric_limits<float>::lowest();
    int64_t place = 0;
    double sum = 0;  // of exp(output - value)

    void add(const Best& best) {
        for (int64_t lane = 0; lane < LANES; lane++) {
            const float some = best.value[lane];
            const int64_t where = best.panel[lane] * LANES + lane;
            const double small = std::exp(-std::fabs(double(some) - double(value)));
            sum = some > value ? sum * small + best.sum[lane] : sum + small * best.sum[lane];
            if (some > value || (some == value && where < place)) place = where;
            value = std::max(some, value);
        }
    }
};

inline void summarized(const Linear& by, const float* x, int64_t tokens, int64_t inputs, int threads, float* values,
                       int64_t* places, float* totals) {
    std::vector<Best> best(threads * tokens);
    const auto here = [&](Floats outputs, int64_t panel) {
        return choose(order() < int32_t(std::min(LANES, by.outputs - panel * LANES)), outputs, splat(LOWEST));
    };
    multiplied(by, rows(x, inputs), tokens, inputs, neighbours(by.outputs), threads,
               [&](const Team& team, const Outputs& found) {
        Best* mine = &best[team.me * tokens];
        found.each([&](int64_t token, const Floats& first, const Floats& second) {
            mine[token].add(here(first, found.panel), found.panel);
            if (found.panels == 2) mine[token].add(here(second, found.panel + 1), found.panel + 1);
        });
    });
    for (int64_t token = 0; token < tokens; token++) {
        Summary all;
        for (int thread = 0; thread < threads; thread++) all.add(best[thread * tokens + token]);
        values[token] = std::isnan(all.sum) ? std::numeric_limits<float>::quiet_NaN()
                        : all.sum == 0      ? -std::numeric_limits<float>::infinity()
                                            : all.value;
        places[token] = all.place;
        totals[token] = float(double(all.value) + std::log(all.sum));
    }
}

}  // namespace
