// What greedy sampling wants of a model's head: its outputs are many, and are never written down.

#pragma once

#include "linear.h"

namespace {

// Of one token's outputs, in 16 lanes: the largest, its panel, and the sum of all as powers of e, relative to it.
struct Best {
    Floats value = splat(std::numeric_limits<float>::lowest()), sum = {};
    Ints panel = {};

    void add(Floats some, int64_t number) {
        if (any_above(some, value))  // which is seldom so
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

// Of one token: the largest output and its place, the first one that has it, and the logarithm of the sum of all as
// powers of e. Where an output is not a number, neither is the largest.
struct Summary {
    float value = std::numeric_limits<float>::lowest();
    int64_t place = 0;
    double sum = 0;  // relative to the largest

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
